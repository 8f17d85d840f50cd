"""Reads `cameras.toml`. Every option of `watch` is a key; errors name the file, line and key.

The keys are the fields of `WatchConfig` and of its nested models. For convenience, paths are relative to the file,
`${NAME}` in a string is replaced by an environment variable (passwords do not belong in files), and a zone may be a
string, as on the command line.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from twincar_edge.errors import InputError, Parameter, nearest
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.configuration.toml_lines import KeyPath, key_lines
from twincar_edge.runtime.locating.zones import Zone, parse_zone
from twincar_edge.runtime.sinks.settings import SinkSettings
from twincar_edge.runtime.sources import redact_url
from twincar_edge.wording import counted

# The parser's time grows with the square of a line's length. These limits are far above any real configuration.
MAX_BYTES = 2**18
MAX_LINE = 4000
_PYTHON_ONLY = {"keep"}  # fields of WatchConfig that are not keys of the file
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The model of each table, by the part of pydantic's error location that leads to it: a key, or the kind of a sink.
_SINKS: dict[str | int, type[BaseModel]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(get_args(SinkSettings)[0])
}
_KINDS = tuple(map(str, _SINKS))
_ARRAYS = ("cameras", "zones", "sinks")  # of tables
_TABLES: dict[str | int, type[BaseModel]] = {"cameras": CameraConfig, "zones": Zone, "page": PageSettings, **_SINKS}


@dataclass(frozen=True, order=True)
class _Fault:
    of_value: bool  # unknown keys sort first: a misspelled key can be the reason why another one is missing
    line: int
    key: KeyPath = field(compare=False)
    text: str = field(compare=False)


def read_config(path: Path, environ: Mapping[str, str] = os.environ) -> WatchConfig:
    """Read and validate a configuration file.

    Args:
        path: a TOML file.
        environ: the environment variables for `${NAME}`.

    Raises:
        InputError: the file cannot be read, is not TOML, or is not a valid configuration. The message names the file,
            line and key of the first error, and counts the others. It never contains the value of a variable.
    """
    text = _read(path)
    try:
        document = _parse(path, text)
        faults = _Faults(key_lines(text))
        prepared = faults.prepared(document, environ)
        as_json = json.dumps(prepared, default=str)
    except RecursionError as error:
        raise InputError(f"invalid configuration {path}: its values are nested too deeply") from error
    faults.check_cameras(document)
    try:
        # From JSON, strict validation accepts lists as tuples and strings as paths, but not "yes" as true.
        config = WatchConfig.model_validate_json(as_json, strict=True, context={"folder": path.absolute().parent})
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            faults.add_error(one, prepared)
    for key in _PYTHON_ONLY & document.keys():
        faults.add((key,), _no_such_key(key, WatchConfig), of_value=False)
    if not faults:
        return config
    first, more = faults.first()
    rest = f" (and {counted(more, 'more error')})" if more else ""
    raise InputError(f"{path} line {first.line}: {_prefix(first.key)}{first.text}{rest}")


def key_spelling(parameter: Parameter) -> str:
    """Return a parameter in a message as a key of the file; see `errors.Parameter`."""
    if parameter.value is None:
        return f"no `{parameter.name}`"
    if parameter.value is ...:
        return f"`{parameter.name}`"
    return f"`{parameter.name} = {json.dumps(parameter.value, default=str)}`"


def _read(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"cannot read the configuration {path}: not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"invalid configuration {path}: larger than {MAX_BYTES >> 10} KiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} line {line}: not UTF-8: save the file as UTF-8") from error
    for number, line_text in enumerate(text.split("\n"), 1):
        if len(line_text) > MAX_LINE:
            raise InputError(f"{path} line {number}: longer than {MAX_LINE} characters: split the line")
    return text


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        where = f" line {found[2] or text.count(chr(10)) + 1}" if found else ""
        raise InputError(f"{path}{where}: {found[1] if found else error}") from error


class _Faults:
    """The errors in a document, by key."""

    def __init__(self, lines: Mapping[KeyPath, int]) -> None:
        self._lines = lines
        self._secrets: list[str] = []
        self._faults: dict[KeyPath, _Fault] = {}

    def __bool__(self) -> bool:
        return bool(self._faults)

    def first(self) -> tuple[_Fault, int]:
        """Return the first error in the file (unknown keys before all others), and the number of further errors."""
        # pydantic also reports a list without its invalid items, which is a consequence and not a separate error.
        parents = {key[:length] for key in self._faults for length in range(len(key))}
        faults = [fault for key, fault in self._faults.items() if key not in parents]
        return min(faults), len(faults) - 1

    def add(self, key: KeyPath, text: str, *, of_value: bool = True) -> None:
        """Record an error, with the values of variables masked. Only the first error of a key is kept."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            for form in (secret, repr(secret)[1:-1]):
                text = text.replace(form, "***")
        prefixes = (key[:length] for length in range(len(key), 0, -1))
        line = next((self._lines[prefix] for prefix in prefixes if prefix in self._lines), 1)
        self._faults.setdefault(key, _Fault(of_value, line, key, " ".join(text.split())))

    def add_error(self, error: Any, document: dict[str, Any]) -> None:
        """Record one of `ValidationError.errors()`, with a clearer message where pydantic's is generic."""
        key = _document_key(error["loc"], document)
        if error["type"] == "extra_forbidden":
            model = next((_TABLES[part] for part in reversed(error["loc"][:-1]) if part in _TABLES), WatchConfig)
            self.add(key, _no_such_key(str(key[-1]), model), of_value=False)
        elif error["type"] == "union_tag_not_found":
            self.add(key, f"`kind` is missing: use one of {', '.join(_KINDS)}")
        elif error["type"] == "union_tag_invalid":
            kind = error["ctx"]["tag"]
            self.add((*key, "kind"), f"there is no kind {kind!r}: {nearest(kind, _KINDS)}")
        elif error["type"] == "tuple_type" and key[-1] in _ARRAYS and isinstance(_at(document, key), dict):
            name = ".".join(part for part in key if isinstance(part, str))
            self.add(key, f"write [[{name}]] in double brackets: there may be several")
        else:
            self.add(key, redact_url(error["msg"].removeprefix("Value error, ")))

    def check_cameras(self, document: dict[str, Any]) -> None:
        """Check that there is a camera, that each has a source, and that names are unique."""
        cameras = document.get("cameras")
        if cameras is None or cameras == []:
            self.add(("cameras",), "no camera: add a table [[cameras]] with name and source")
            return
        seen: dict[str, int] = {}
        for number, camera in enumerate(cameras if isinstance(cameras, list) else ()):
            if not isinstance(camera, dict):
                continue
            if "source" not in camera:
                self.add(("cameras", number), "no `source`: set it to /dev/video0, rtsp://…, a file or a folder")
            name = camera.get("name", CameraConfig.model_fields["name"].default)
            if isinstance(name, str) and name in seen:
                line = self._lines.get(("cameras", seen[name]), 1)
                text = f"the camera at line {line} has the name {name!r} too: give each its own"
                self.add(("cameras", number, "name"), text)
            elif isinstance(name, str):
                seen[name] = number

    def prepared(self, value: Any, environ: Mapping[str, str], key: KeyPath = ()) -> Any:
        """Return a value with variables substituted in its strings, and with zones parsed."""
        if isinstance(value, dict):
            return {name: self.prepared(one, environ, (*key, name)) for name, one in value.items()}
        if isinstance(value, list):
            return [self.prepared(one, environ, (*key, number)) for number, one in enumerate(value)]
        if not isinstance(value, str):
            return value
        text = self._substituted(value, environ, key)
        is_zone = key[::2] == ("cameras", "zones") and isinstance(key[-1], int)
        return self._zone(text, key) if is_zone else text

    def _zone(self, text: str, key: KeyPath) -> Any:
        """Parse a zone in the command line's format. A validator would turn off strict JSON validation of the rest."""
        try:
            return parse_zone(text).model_dump(mode="json")
        except InputError as error:
            self.add(key, error.message(key_spelling))
            return text

    def _substituted(self, value: str, environ: Mapping[str, str], key: KeyPath) -> str:
        def substitute(found: re.Match[str]) -> str:
            if found[0] == "$${":
                return "${"
            name = found[1]
            if not found[2] or not _NAME.fullmatch(name):
                self.add(key, "${…} needs the name of an environment variable; write $${ for a literal ${")
                return ""
            secret = environ.get(name, "")
            if not secret:
                self.add(key, f"the environment variable {name} is not set")
            elif not secret.isprintable():
                self.add(key, f"the environment variable {name} contains a line break or another control character")
            else:
                self._secrets.append(secret)
            return secret

        text = _VARIABLE.sub(substitute, value)
        if "\0" in text:
            self.add(key, "contains a NUL character: remove it")
        return text


def _at(document: Any, key: KeyPath) -> Any:
    for part in key:
        document = document[part]
    return document


def _no_such_key(key: str, model: type[BaseModel]) -> str:
    known = tuple(name for name in model.model_fields if name not in _PYTHON_ONLY)
    if key in WatchConfig.model_fields and key not in _PYTHON_ONLY:
        return "there is no such key in this table: put it at the top of the file, above the first line in brackets"
    return f"there is no such key: {nearest(key, known)}"


def _document_key(location: KeyPath, document: Any) -> KeyPath:
    """Return the key of a pydantic error location, which also contains the kind of a sink."""
    key: KeyPath = ()
    for part in location:
        if isinstance(document, dict) and part not in document and part == document.get("kind"):
            continue
        key = (*key, part)
        inside = isinstance(document, dict) and part in document
        inside = inside or (isinstance(document, list) and isinstance(part, int) and part < len(document))
        document = document[part] if inside else None
    return key


def _prefix(key: KeyPath) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
    return f"{text}: " if text else ""
