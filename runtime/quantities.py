"""Sizes and durations as people write them: `500MB`, `30d`, `1h`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator

SIZE_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
AGE_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MOST_AGE_S = 100 * 366 * 86_400


def parse_size(text: str) -> int:
    """Return the bytes that `500MB`, `1.5 GB` or `4096` (bytes) name; units are powers of ten.

    Raises:
        ValueError: it is no such size, in one line that says what one looks like.
    """
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]?B)?\s*", text, re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no size: write a number and one of {', '.join(SIZE_UNITS)}, such as 500MB")
    return int(float(found[1]) * SIZE_UNITS[(found[2] or "B").upper()])


def parse_age(text: str) -> timedelta:
    """Return the time that `90s`, `15m`, `1h`, `30d` or `2w` names, up to a hundred years.

    Raises:
        ValueError: it is no such time, in one line that says what one looks like.
    """
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([smhdw])\s*", text, re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no time: write a number and one of {', '.join(AGE_UNITS_S)}, such as 1h or 30d")
    seconds = float(found[1]) * AGE_UNITS_S[found[2].lower()]
    if seconds > _MOST_AGE_S:
        raise ValueError(f"{text!r} is more than a hundred years")
    return timedelta(seconds=seconds)


# For configs: the text, or a number of bytes; the text, or what pydantic takes for a time.
Size = Annotated[int, BeforeValidator(lambda value: parse_size(value) if isinstance(value, str) else value)]
Age = Annotated[timedelta, BeforeValidator(lambda value: parse_age(value) if isinstance(value, str) else value)]
