"""Types of configuration values: sizes (`500MB`), bounded durations (`30d`), paths relative to the file."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, TypeAdapter, ValidationError, ValidationInfo

_AGE_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # pydantic parses only days and ISO 8601 (PT1H)
_MAX_AGE_S = 100 * 366 * 86_400  # below what dates and timers can hold
_MAX_TIMEOUT_S = 3600
_BYTES = TypeAdapter(ByteSize)


def parse_age(text: str) -> timedelta:
    """Parse a duration such as `90s`, `15m`, `1h`, `30d` or `2w`, up to a hundred years.

    Raises:
        ValueError: the text is not a valid duration.
    """
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([smhdw])\s*", text, re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError(f"invalid duration {text!r}: use a number and one of {', '.join(_AGE_UNITS_S)}, such as 30d")
    seconds = float(found[1]) * _AGE_UNITS_S[found[2].lower()]
    if seconds > _MAX_AGE_S:
        raise ValueError(f"invalid duration {text!r}: use at most a hundred years")
    return timedelta(seconds=seconds)


def _size(value: Any) -> Any:
    """Parse a size such as `500MB` or `2GiB` into bytes; pass other types on to the field."""
    if not isinstance(value, str):
        return value
    try:
        return _BYTES.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"invalid size {value!r}: use bytes, or a number and a unit, such as 500MB or 2GB") from error


def _seconds(value: Any) -> Any:
    """Parse a duration such as `1.5` or `2m` into seconds; pass other types on to the field."""
    if not isinstance(value, str) or re.fullmatch(r"\d{1,12}(\.\d{1,6})?", value, re.ASCII):
        return float(value) if isinstance(value, str) else value
    return parse_age(value).total_seconds()


def _not_empty(value: Any) -> Any:
    """Refuse an empty path, which would be the current folder, or that of the configuration file."""
    if value == "":
        raise ValueError("is empty: give a path")
    return value


def relative_to_config(path: Path, info: ValidationInfo) -> Path:
    """Resolve a path against the configuration file's folder (`folder` of the validation context), if there is one."""
    return path if info.context is None else Path(info.context["folder"]) / path


# Field types. Each takes a text as above, or the type itself: bytes, a timedelta, seconds.
Size = Annotated[int, BeforeValidator(_size)]
Age = Annotated[
    timedelta,
    BeforeValidator(lambda value: parse_age(value) if isinstance(value, str) else value),
    Field(le=timedelta(seconds=_MAX_AGE_S)),
]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Duration = Annotated[float, Field(gt=0, le=_MAX_AGE_S)]  # seconds
Timeout = Annotated[float, Field(gt=0, le=_MAX_TIMEOUT_S)]  # seconds
ConfigPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(relative_to_config)]
