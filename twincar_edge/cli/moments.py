"""What people write for a time or a day: `1h` (ago), `yesterday`, or ISO 8601. Without a zone it is local time."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import click

_DAYS_AGO = {"today": 0, "yesterday": 1}


def parse_moment(text: str) -> datetime:
    """Return the time that a text names; a day stands for its first moment.

    Raises:
        ValueError, OverflowError, OSError: it names none.
    """
    from twincar_edge.runtime.quantities import parse_age

    if text.lower() in _DAYS_AGO:
        return parse_day(text)[0]
    try:
        return datetime.now().astimezone() - parse_age(text)
    except ValueError:
        return datetime.fromisoformat(text).astimezone()


def parse_day(text: str) -> tuple[datetime, datetime]:
    """Return the first moment of a local day and that of the next: 23 to 25 hours, where clocks are changed.

    Raises:
        ValueError, OverflowError, OSError: the text names no day.
    """
    ago = _DAYS_AGO.get(text.lower())
    day = date.fromisoformat(text) if ago is None else date.today() - timedelta(days=ago)
    return _midnight(day), _midnight(day + timedelta(days=1))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day).astimezone()


def moment_option(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """Read an option's value as a time."""
    try:
        return None if text is None else parse_moment(text)
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(
            f"invalid time {text!r}: use 1h or 2d (ago), today, yesterday, or 2025-03-01T12:00"
        ) from error


def day_option(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[datetime, datetime] | None:
    """Read an option's value as a day."""
    try:
        return None if text is None else parse_day(text)
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(f"invalid day {text!r}: use today, yesterday, or 2025-03-01") from error
