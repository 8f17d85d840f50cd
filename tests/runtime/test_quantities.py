"""Sizes and durations in cameras.toml and on the command line."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import TypeAdapter, ValidationError

from twincar_edge.runtime.quantities import Age, Size, parse_age

SIZE: TypeAdapter[int] = TypeAdapter(Size)
AGE: TypeAdapter[timedelta] = TypeAdapter(Age)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        (" 1.5 GB ", 1_500_000_000),
        ("2tb", 2 * 10**12),
        ("12KB", 12_000),
        ("7B", 7),
        ("2GiB", 2 * 2**30),
        (4096, 4096),
    ],
)
def test_units_of_sizes_are_decimal_unless_binary_prefixes_are_used(text: str | int, size: int) -> None:
    assert SIZE.validate_python(text) == size


@pytest.mark.parametrize("text", ["", "much", "MB", "5 parsecs", "-5MB", "nan", "inf", "1e400GB", "9" * 400 + "GB"])
def test_an_invalid_size_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(ValidationError, match=r"invalid size .*: use bytes, or a number and a unit, such as 500MB"):
        SIZE.validate_python(text)


def test_a_boolean_is_not_a_size() -> None:
    with pytest.raises(ValidationError, match="valid integer"):
        SIZE.validate_json("true", strict=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("1h", 3600), (" 1.5 H ", 5400), ("30d", 2_592_000), ("2w", 1_209_600)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_age(text) == AGE.validate_python(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "1", "h", "-1h", "1y", "1h30m", "१h"])
def test_an_invalid_duration_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid duration .*: use a number and one of s, m, h, d, w, such as 30d"):
        parse_age(text)


def test_a_duration_is_at_most_a_hundred_years() -> None:
    with pytest.raises(ValueError, match="at most a hundred years"):
        parse_age("999999999999w")
