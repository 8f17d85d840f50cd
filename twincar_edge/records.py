"""The base classes of all pydantic models, and types that several of them share."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from twincar_edge.errors import InputError, nearest, parameter_fault
from twincar_edge.files import as_text

_NOT_UTF8 = re.compile("[\ud800-\udfff]")
SHA256 = "[0-9a-f]{64}"
Sha256 = Annotated[str, Field(pattern=f"^{SHA256}$")]
Share = Annotated[float, Field(ge=0, le=1)]


def in_words(form: str) -> WrapValidator:
    """Return what follows a pattern in an annotation: an error then says to use `form`, and not the pattern."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            if error.errors()[0]["type"] != "string_pattern_mismatch":
                raise
            raise ValueError(f"use {form}") from error

    return WrapValidator(check)


class Record(BaseModel):
    """Base of configurations, reports and file contents: frozen, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_dump_json(self, **options: Any) -> str:
        """Return the record as JSON; bytes of file names that are not UTF-8 are escaped as by `as_text`."""
        try:
            return super().model_dump_json(**options)
        except ValueError:  # of pydantic, for text that UTF-8 cannot encode
            indent = options.pop("indent", None)
            text = json.dumps(self.model_dump(mode="json", **options), indent=indent, ensure_ascii=False)
            return _NOT_UTF8.sub(lambda found: "\\" + as_text(found[0]), text)  # JSON escapes the backslash, too


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not a boolean")
    return value


_REFUSE_BOOLEAN = {"type": "no-info", "function": _refuse_boolean}


def _without_booleans(schema: Any) -> Any:
    """Return a core schema, or a part of one, whose numbers refuse booleans, which pydantic takes for 1 and 0."""
    if isinstance(schema, list):
        return [_without_booleans(part) for part in schema]
    if not isinstance(schema, dict) or schema.get("function") == _REFUSE_BOOLEAN:  # of settings inside these
        return schema
    if schema.get("type") in ("int", "float", "timedelta"):
        return {"type": "function-before", "function": _REFUSE_BOOLEAN, "schema": schema}
    return {key: _without_booleans(part) for key, part in schema.items()}


class Settings(Record):
    """Base of the records that Python users construct: an invalid value is an `InputError`, as in the functions.

    Numbers cannot be booleans. `model_validate` and `model_validate_json` still raise pydantic's error, for readers of
    files that name the place.
    """

    def __init__(self, /, **values: Any) -> None:
        """Validate the values.

        Raises:
            InputError: a field does not exist, or has an invalid value.
        """
        fields = tuple(type(self).model_fields)
        unknown = next((name for name in values if name not in fields), None)
        if unknown is not None:
            raise InputError(f"{type(self).__name__} has no field {unknown!r}: {nearest(unknown, fields)}")
        try:
            super().__init__(**self.from_python({name: _as_path(value) for name, value in values.items()}))
        except ValidationError as error:
            raise InputError(*parameter_fault(error)) from error

    # Without it, pydantic would call `__init__` for records inside others too, and lose the validation context.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return _without_booleans(handler(source))

    @classmethod
    def from_python(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the given values as the fields accept them. A file's values are not changed by it."""
        return values


def _as_path(value: object) -> object:
    return Path(value) if isinstance(value, os.PathLike) else value
