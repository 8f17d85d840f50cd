"""Parse times and days as users write them: `1h` (ago), `yesterday`, or ISO 8601; local time unless a zone is given."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import click

_DAYS_AGO = {"today": 0, "yesterday": 1}


def parse_moment(text: str) -> datetime:
    """Parse a time; a day means its first moment.

    Raises:
        ValueError, OverflowError, OSError: the text is not a valid time.
    """
    from twincar_edge.runtime.quantities import parse_age

    if text.lower() in _DAYS_AGO:
        return parse_day(text)[0]
    try:
        return datetime.now().astimezone() - parse_age(text)
    except ValueError:
        return datetime.fromisoformat(text).astimezone()


def parse_day(text: str) -> tuple[datetime, datetime]:
    """Parse a local day as its first moment and that of the next day: 23 to 25 hours apart, as clocks may change.

    Raises:
        ValueError, OverflowError, OSError: the text is not a valid day.
    """
    ago = _DAYS_AGO.get(text.lower())
    day = date.fromisoformat(text) if ago is None else date.today() - timedelta(days=ago)
    return _midnight(day), _midnight(day + timedelta(days=1))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day).astimezone()


def moment_option(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """Parse an option's value as a time."""
    try:
        return None if text is None else parse_moment(text)
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(
            f"invalid time {text!r}: use 1h or 2d (ago), today, yesterday, or 2025-03-01T12:00"
        ) from error


def day_option(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[datetime, datetime] | None:
    """Parse an option's value as a day."""
    try:
        return None if text is None else parse_day(text)
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(f"invalid day {text!r}: use today, yesterday, or 2025-03-01") from error
