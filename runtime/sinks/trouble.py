"""What is said of a sink in trouble: one line when it begins, one when it is over, with what was lost meanwhile."""

from __future__ import annotations

from collections.abc import Callable


class Trouble:
    """The trouble of one sink. Its sender alone tells of it.

    Attributes:
        problem: what is wrong now; None while all is well.
    """

    def __init__(self, label: str, what: str, again: str, too_slow: str, on_problem: Callable[[str], None]) -> None:
        """Begin without any.

        Args:
            label: what to call the sink.
            what: it takes, in the plural.
            again: says that it works again.
            too_slow: says why something is lost though it works.
            on_problem: gets the lines.
        """
        self.problem: str | None = None
        self._label = label
        self._what = what
        self._again = again
        self._too_slow = too_slow
        self._on_problem = on_problem
        self._told_dropped = 0

    def begins(self, problem: str) -> None:
        """Note what is wrong, and say it where nothing was."""
        first, self.problem = self.problem is None, problem
        if first:
            self._on_problem(f"{self._label}: {problem}")

    def is_over(self, queued: int, dropped: int) -> None:
        """Note that something was delivered, and say it where something was wrong, or where the sink is too slow.

        `queued` still wait, and `dropped` were lost since the start.
        """
        lost = dropped - self._told_dropped
        before, self.problem = self.problem, None
        if before is not None:
            self._on_problem(f"{self._label}: {self._again}" + (f"; {lost} {self._what} were lost" if lost else ""))
        elif lost and not queued:
            self._on_problem(f"{self._label}: {self._too_slow}, {lost} {self._what} were lost")
        if before is not None or not queued:
            self._told_dropped = dropped

    def told_of(self, lost: int) -> None:
        """Leave out so many of what was lost: somebody else has said of them why."""
        self._told_dropped += lost
