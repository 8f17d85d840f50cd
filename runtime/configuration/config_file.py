"""Reads `cameras.toml`: every option of `watch` by its key, every mistake by its file, line and key.

The keys are the fields of `WatchConfig` and of the models in it. Three things make the file easier to write: paths are
relative to the file, `${NAME}` in a text stands for an environment variable (passwords do not belong into files), and
a zone may be written as on the command line.
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
from twincar_edge.runtime.configuration.toml_lines import Place, key_lines
from twincar_edge.runtime.locating.zones import Zone, parse_zone
from twincar_edge.runtime.sinks.settings import SinkSettings
from twincar_edge.runtime.sources import redact_url

# A parser's time grows with the square of a line's length: these bound it, and no configuration comes near them.
MAX_BYTES = 2**18
MAX_LINE = 4000
_NOT_KEYS = {"keep"}  # of WatchConfig: for callers in Python
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The models whose keys a table has, by what pydantic has on the way to it: a key, or the kind of a sink.
_SINKS: dict[str | int, type[BaseModel]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(get_args(SinkSettings)[0])
}
_KINDS = tuple(map(str, _SINKS))
_TABLES: dict[str | int, type[BaseModel]] = {"cameras": CameraConfig, "zones": Zone, "page": PageSettings, **_SINKS}


@dataclass(frozen=True, order=True)
class _Fault:
    of_value: bool  # misspelt keys come first: whatever is missing may be what they mean
    line: int
    place: Place = field(compare=False)
    text: str = field(compare=False)


def read_config(path: Path, environ: Mapping[str, str] = os.environ) -> WatchConfig:
    """Read and check a configuration file.

    Args:
        path: a TOML file.
        environ: where the variables of `${NAME}` are looked up.

    Raises:
        InputError: it cannot be read, is no TOML, or says something that is no configuration. The message names file,
            line and key of the first mistake, and how many more there are; the value of a variable is never in it.
    """
    text = _read(path)
    try:
        document = _parse(path, text)
        faults = _Faults(key_lines(text))
        prepared = faults.prepared(document, environ)
        as_json = json.dumps(prepared, default=str)
    except RecursionError as error:
        raise InputError(f"{path} is no configuration: its values are nested too deep") from error
    faults.check_cameras(document)
    try:
        # By way of JSON, where strictness takes lists for tuples and texts for paths, and "yes" not for true.
        config = WatchConfig.model_validate_json(as_json, strict=True, context={"folder": path.absolute().parent})
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            faults.add_error(one, prepared)
    for key in _NOT_KEYS & document.keys():
        faults.add((key,), _no_such_key(key, WatchConfig), of_value=False)
    if not faults:
        return config
    first, more = faults.first()
    rest = f" (and {more} more mistake{'s' * (more > 1)})" if more else ""
    raise InputError(f"{path} line {first.line}: {_written(first.place)}{first.text}{rest}")


def key_spelling(parameter: Parameter) -> str:
    """Return a parameter that a message names as a key of the file."""
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
        raise InputError(f"{path} is no configuration: it is larger than {MAX_BYTES >> 10} KiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} line {line}: the text is not UTF-8") from error
    for number, line_text in enumerate(text.split("\n"), 1):
        if len(line_text) > MAX_LINE:
            raise InputError(f"{path} line {number}: it is longer than {MAX_LINE} characters")
    return text


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        place = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        where = f" line {place[2] or text.count(chr(10)) + 1}" if place else ""
        raise InputError(f"{path}{where}: {place[1] if place else error}") from error


class _Faults:
    """What is wrong with a document, and where."""

    def __init__(self, lines: Mapping[Place, int]) -> None:
        self._lines = lines
        self._secrets: list[str] = []
        self._faults: dict[Place, _Fault] = {}

    def __bool__(self) -> bool:
        return bool(self._faults)

    def first(self) -> tuple[_Fault, int]:
        """Return the first in the file, a misspelt key before all others, and how many more there are."""
        # pydantic also counts what is left of a list without its faulty items: that is no mistake of its own.
        roots = {place[:length] for place in self._faults for length in range(len(place))}
        faults = [fault for place, fault in self._faults.items() if place not in roots]
        return min(faults), len(faults) - 1

    def add(self, place: Place, text: str, *, of_value: bool = True) -> None:
        """Remember a mistake, without the value of any variable; of those at one place, the first."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            for form in (secret, repr(secret)[1:-1]):
                text = text.replace(form, "***")
        known = (place[:length] for length in range(len(place), 0, -1))
        line = next((self._lines[one] for one in known if one in self._lines), 1)
        self._faults.setdefault(place, _Fault(of_value, line, place, " ".join(text.split())))

    def add_error(self, error: Any, document: dict[str, Any]) -> None:
        """Remember one of `ValidationError.errors()`, in words of ours where it only knows its own."""
        place = _place(error["loc"], document)
        if error["type"] == "extra_forbidden":
            model = next((_TABLES[part] for part in reversed(error["loc"][:-1]) if part in _TABLES), WatchConfig)
            self.add(place, _no_such_key(str(place[-1]), model), of_value=False)
        elif error["type"] == "union_tag_not_found":
            self.add(place, f"it needs a kind: {', '.join(_KINDS)}")
        elif error["type"] == "union_tag_invalid":
            kind = error["ctx"]["tag"]
            self.add((*place, "kind"), f"there is no kind {kind!r}: {nearest(kind, _KINDS)}")
        else:
            self.add(place, redact_url(error["msg"].removeprefix("Value error, ")))

    def check_cameras(self, document: dict[str, Any]) -> None:
        """Hold the cameras against one another: there is one, each has a source, and no two have one name."""
        cameras = document.get("cameras")
        if cameras is None or cameras == []:
            self.add(("cameras",), "it names no camera: write [[cameras]], and name and source below it")
            return
        seen: dict[str, int] = {}
        for number, camera in enumerate(cameras if isinstance(cameras, list) else ()):
            if not isinstance(camera, dict):
                continue
            if "source" not in camera:
                self.add(("cameras", number), "it has no source: /dev/video0, rtsp://…, a file or a folder")
            name = camera.get("name", CameraConfig.model_fields["name"].default)
            if isinstance(name, str) and name in seen:
                line = self._lines.get(("cameras", seen[name]), 1)
                self.add(
                    ("cameras", number, "name"), f"the camera at line {line} is called {name!r} too: each has its own"
                )
            elif isinstance(name, str):
                seen[name] = number

    def prepared(self, value: Any, environ: Mapping[str, str], place: Place = ()) -> Any:
        """Return a value with the variables put into every text in it, and with zones read."""
        if isinstance(value, dict):
            return {key: self.prepared(one, environ, (*place, key)) for key, one in value.items()}
        if isinstance(value, list):
            return [self.prepared(one, environ, (*place, number)) for number, one in enumerate(value)]
        if not isinstance(value, str):
            return value
        text = self._text(value, environ, place)
        return self._zone(text, place) if place[::2] == ("cameras", "zones") else text

    def _zone(self, text: str, place: Place) -> Any:
        """Return a zone that is written as on the command line; a validator would cost the rest its JSON strictness."""
        try:
            return parse_zone(text).model_dump(mode="json")
        except InputError as error:
            self.add(place, error.message(key_spelling))
            return text

    def _text(self, value: str, environ: Mapping[str, str], place: Place) -> str:
        def put_in(found: re.Match[str]) -> str:
            if found[0] == "$${":
                return "${"
            name = found[1]
            if not found[2] or not _NAME.fullmatch(name):
                self.add(place, "${…} is to hold the name of an environment variable; $${ stands for ${ itself")
                return ""
            secret = environ.get(name, "")
            if not secret:
                self.add(place, f"the environment variable {name} is not set")
            elif not secret.isprintable():
                self.add(place, f"the environment variable {name} holds a line break or the like")
            else:
                self._secrets.append(secret)
            return secret

        text = _VARIABLE.sub(put_in, value)
        if "\0" in text:
            self.add(place, "it holds a zero character, which no name can")
        return text


def _no_such_key(key: str, model: type[BaseModel]) -> str:
    known = tuple(name for name in model.model_fields if name not in _NOT_KEYS)
    return f"there is no such key: {nearest(key, known)}"


def _place(found: Place, document: Any) -> Place:
    """Return a place of pydantic's as one of the document: it names the chosen kind of a table on the way."""
    place: Place = ()
    for part in found:
        if isinstance(document, dict) and part not in document and part == document.get("kind"):
            continue
        place = (*place, part)
        inside = isinstance(document, dict) and part in document
        inside = inside or (isinstance(document, list) and isinstance(part, int) and part < len(document))
        document = document[part] if inside else None
    return place


def _written(place: Place) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return f"{text}: " if text else ""
