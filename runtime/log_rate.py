"""Which repetitions of an event are logged, so that one that never ends does not fill the log."""

from __future__ import annotations


def is_logged(before: int, now: int) -> bool:
    """Return whether to log an event whose count rose from `before` to `now`: the 1st, 2nd, 4th, 8th time and so on."""
    return now.bit_length() > before.bit_length()
