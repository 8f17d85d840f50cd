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
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from twincar_edge.errors import InputError, Parameter, nearest
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.configuration.toml_lines import Place, key_lines
from twincar_edge.runtime.locating.zones import Zone, parse_zone
from twincar_edge.runtime.sources import redact_url
from twincar_edge.runtime.sources.devices import device_number

# A parser's time grows with the square of a line's length: these bound it, and no configuration comes near them.
MAX_BYTES = 2**18
MAX_LINE = 4000
_NOT_KEYS = {"keep"}  # of WatchConfig: for callers in Python
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, order=True)
class _Fault:
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
        document = tomllib.loads(text)
    except RecursionError as error:
        raise InputError(f"{path} is no configuration: its values are nested too deep") from error
    except ValueError as error:
        place = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        where = f" line {place[2] or text.count(chr(10)) + 1}" if place else ""
        raise InputError(f"{path}{where}: {place[1] if place else error}") from error
    reader = _Reader(path.absolute().parent, environ, key_lines(text))
    prepared = reader.prepare(WatchConfig, document, ())
    reader.check_cameras(document)
    if not reader.faults:
        try:
            # By way of JSON, where strictness takes lists for tuples and texts for paths, and "yes" not for true.
            return WatchConfig.model_validate_json(json.dumps(prepared, default=str), strict=True)
        except ValidationError as error:
            for one in error.errors(include_url=False, include_input=False):
                reader.fault(_place(one["loc"], document), redact_url(one["msg"]))
    # pydantic also counts what is left of a list without its faulty items: that is no mistake of its own.
    roots = {fault.place[:length] for fault in reader.faults for length in range(len(fault.place))}
    faults = [fault for fault in reader.faults if fault.place not in roots] or reader.faults
    first, more = min(faults), len(faults) - 1
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
            raise InputError(f"cannot read the configuration {path}: it is no file")
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


class _Reader:
    """Goes through a document along the models that it shall become, and remembers what is wrong with it."""

    def __init__(self, folder: Path, environ: Mapping[str, str], lines: Mapping[Place, int]) -> None:
        self.faults: list[_Fault] = []
        self._folder = folder
        self._environ = environ
        self._lines = lines
        self._secrets: list[str] = []

    def fault(self, place: Place, text: str) -> None:
        """Remember a mistake, without the value of any variable."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            for form in (secret, repr(secret)[1:-1]):
                text = text.replace(form, "***")
        known = (place[:length] for length in range(len(place), 0, -1))
        line = next((self._lines[one] for one in known if one in self._lines), 1)
        self.faults.append(_Fault(line, place, " ".join(text.split())))

    def prepare(self, annotation: Any, value: Any, place: Place) -> Any:
        """Return a value with variables, paths and zones put in, wherever the annotation has them."""
        kinds = _kinds(annotation)
        if isinstance(value, str):
            return self._text(kinds, value, place)
        if isinstance(value, list):
            items = [argument for kind in kinds for argument in get_args(kind) if argument is not Ellipsis]
            return [self.prepare(items[0] if items else Any, one, (*place, n)) for n, one in enumerate(value)]
        if isinstance(value, dict):
            return self._table([kind for kind in kinds if _is_model(kind)], value, place)
        return value

    def check_cameras(self, document: dict[str, Any]) -> None:
        """Hold the cameras against one another: there is one, each has a source, and no two have one name."""
        cameras = document.get("cameras")
        if cameras is None or cameras == []:
            self.fault(("cameras",), "it names no camera: write [[cameras]], and name and source below it")
            return
        seen: dict[str, int] = {}
        for number, camera in enumerate(cameras if isinstance(cameras, list) else ()):
            if not isinstance(camera, dict):
                continue
            if "source" not in camera:
                self.fault(("cameras", number), "it has no source: /dev/video0, rtsp://…, a file or a folder")
            name = camera.get("name", CameraConfig.model_fields["name"].default)
            if isinstance(name, str) and name in seen:
                line = self._lines.get(("cameras", seen[name]), 1)
                self.fault(
                    ("cameras", number, "name"), f"the camera at line {line} is called {name!r} too: each has its own"
                )
            elif isinstance(name, str):
                seen[name] = number

    def _table(self, models: list[type[BaseModel]], value: dict[str, Any], place: Place) -> dict[str, Any]:
        model = self._model(models, value, place)
        if model is None:
            return value
        fields = {name: field.annotation for name, field in model.model_fields.items() if name not in _NOT_KEYS}
        prepared = {}
        for key, one in value.items():
            if key in fields:
                prepared[key] = self.prepare(fields[key], one, (*place, key))
                if model is CameraConfig and key == "source" and isinstance(one, str):
                    prepared[key] = self._source(prepared[key])
            else:
                self.fault((*place, key), f"there is no such key: {nearest(key, tuple(fields))}")
        return prepared

    def _model(self, models: list[type[BaseModel]], value: dict[str, Any], place: Place) -> type[BaseModel] | None:
        """Return the one that a table is of: where there are several, its `kind` tells."""
        if len(models) < 2:
            return models[0] if models else None
        by_kind = {str(model.model_fields["kind"].default): model for model in models}
        kind = value.get("kind")
        if isinstance(kind, str) and kind in by_kind:
            return by_kind[kind]
        if kind is None:
            self.fault(place, f"it needs a kind: {', '.join(by_kind)}")
        else:
            self.fault((*place, "kind"), f"there is no kind {kind!r}: {nearest(str(kind), tuple(by_kind))}")
        return None

    def _text(self, kinds: list[Any], value: str, place: Place) -> Any:
        value = self._with_variables(value, place)
        if "\0" in value:
            self.fault(place, "it holds a zero character, which no name can")
        if Zone in kinds:
            try:
                return parse_zone(value).model_dump(mode="json")
            except InputError as error:
                self.fault(place, error.message(key_spelling))
        return str(self._folder / value) if Path in kinds and value else value

    def _with_variables(self, value: str, place: Place) -> str:
        def put_in(found: re.Match[str]) -> str:
            if found[0] == "$${":
                return "${"
            name = found[1]
            if not found[2] or not _NAME.fullmatch(name):
                self.fault(place, "${…} is to hold the name of an environment variable; $${ stands for ${ itself")
                return ""
            secret = self._environ.get(name, "")
            if not secret:
                self.fault(place, f"the environment variable {name} is not set")
            elif not secret.isprintable():
                self.fault(place, f"the environment variable {name} holds a line break or the like")
            else:
                self._secrets.append(secret)
            return secret

        return _VARIABLE.sub(put_in, value)

    def _source(self, value: str) -> str:
        """Return a source as the loop opens it: a file or folder is relative to the configuration."""
        if not value or "://" in value or device_number(value) is not None:
            return value
        return str(self._folder / value)


def _kinds(annotation: Any) -> list[Any]:
    """Return the types that an annotation allows, without what pydantic has around them."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) is None or get_origin(annotation) in (tuple, list, frozenset, set, dict):
        return [annotation]
    return [kind for argument in get_args(annotation) for kind in _kinds(argument)]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


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
