"""What a sink says about its failures: one line when they begin, one when they are over, with what was lost."""

from __future__ import annotations

from collections.abc import Callable


class FailureReporter:
    """Reports the failures of one sink.

    Attributes:
        label: what to call the sink.
        problem: the current failure; None while the sink works.
    """

    def __init__(
        self, label: str, items: str, recovered: str, too_slow: str, on_problem: Callable[[str], None]
    ) -> None:
        """Start without a failure.

        Args:
            label: what to call the sink.
            items: what it takes, in the plural.
            recovered: says that it works again.
            too_slow: says why items are lost although it works.
            on_problem: gets the lines.
        """
        self.problem: str | None = None
        self.label = label
        self._items = items
        self._recovered = recovered
        self._too_slow = too_slow
        self._on_problem = on_problem
        self._already_reported = 0

    def failed(self, problem: str) -> None:
        """Note a failure; report it if the sink worked before."""
        first, self.problem = self.problem is None, problem
        if first:
            self.report(problem)

    def succeeded(self, queued: int, dropped: int) -> None:
        """Note a success; report it if the sink failed before, or if it is too slow.

        Args:
            queued: items that still wait.
            dropped: items lost since the start.
        """
        lost = dropped - self._already_reported
        before, self.problem = self.problem, None
        if before is not None:
            loss = f"; {lost} {self._items} were lost" if lost else ""
            self.report(self._recovered + loss)
        elif lost and not queued:
            self.report(f"{self._too_slow}, {lost} {self._items} were lost")
        if before is not None or not queued:
            self._already_reported = dropped

    def given_up(self, reason: str) -> None:
        """Report that one event is given up, and do not report it as lost again."""
        self.report(f"an event is given up: {reason}")
        self._already_reported += 1

    def lost_at_closing(self, lost: int) -> None:
        """Report how many items are lost because the run ends."""
        if lost:
            self.report(f"{lost} {self._items} are lost at closing: {self.problem or self._too_slow}")

    def report(self, text: str) -> None:
        """Say something of the sink."""
        self._on_problem(f"{self.label}: {text}")
