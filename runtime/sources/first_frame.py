"""Reads one frame of a source, or raises the reason for its absence, within a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable

from twincar_edge.errors import InputError, Parameter
from twincar_edge.runtime.sources.base import Frame, Source

TIMEOUT_S = 10.0


class NoFrameInTimeError(InputError):
    """A source sent no frame within the timeout."""


def first_frame(
    open_one: Callable[[], Source], *, at_s: float = 0.0, timeout_s: float = TIMEOUT_S
) -> tuple[Frame, float | None]:
    """Open a source and return its first frame at `at_s` or later, and its nominal frames a second.

    Args:
        open_one: opens the source, in a separate thread: a driver may block forever.
        at_s: seconds from the source's start.
        timeout_s: how long the source may take for each frame.

    Raises:
        NoFrameInTimeError: the source takes longer.
        InputError: it cannot be opened, has no frame, or ends before `at_s`.
    """
    answers: list[tuple[Frame, float | None] | BaseException] = []
    opened: list[Source] = []

    def look() -> None:
        try:
            with open_one() as source:
                opened.append(source)
                answers.append((_take(source, at_s), source.fps))
        except BaseException as error:  # noqa: BLE001 - raised below
            answers.append(error)

    thread = threading.Thread(target=look, name="first frame", daemon=True)
    thread.start()
    before, given = -1, 0
    while not answers and given > before:  # frames before `at_s` reset the timeout
        before = given
        thread.join(timeout_s)
        given = sum(source.status().frames for source in opened)
    if not answers:
        problem = "".join(f": {reported}" for source in opened if (reported := source.status().problem))
        for source in opened:
            source.release()
        raise NoFrameInTimeError(f"no picture within {timeout_s:g} s{problem}")
    (answer,) = answers
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _take(source: Source, at_s: float) -> Frame:
    last = None
    for last in source:
        if last.time_s >= at_s or source.stills:
            return last
    if last is None:
        raise InputError(f"{source.name} opens but sends no picture: another program may be using it")
    raise InputError(f"{source.name} ends after {last.time_s:.1f} s: ", Parameter("at_s"), " must be before that")
