"""Reports the failures of a sink: one line when they start, one when they end, with the number of lost items."""

from __future__ import annotations

from collections.abc import Callable

from twincar_edge.wording import counted


class FailureReporter:
    """Reports the failures of one sink.

    Attributes:
        label: the sink's name in messages.
        problem: the current failure, or None while the sink works.
        upkeep_problem: the failure of the last periodic work, or None.
    """

    def __init__(self, label: str, item: str, recovered: str, too_slow: str, on_problem: Callable[[str], None]) -> None:
        """Start without a failure.

        Args:
            label: the sink's name in messages.
            item: what the sink receives: "event".
            recovered: message after a recovery.
            too_slow: reason for items lost without a failure.
            on_problem: called with each line.
        """
        self.problem: str | None = None
        self.upkeep_problem: str | None = None
        self.label = label
        self._item = item
        self._recovered = recovered
        self._too_slow = too_slow
        self._on_problem = on_problem
        self._reported_lost = 0
        self._reported_failure = False
        self._reported_refusal: str | None = None

    @property
    def current(self) -> str | None:
        """Return the failure that the sink has now, in its items or in its periodic work, or None."""
        return self.problem or self.upkeep_problem

    def failed(self, problem: str, *, report: bool = True) -> None:
        """Record a failure. Report the first one since the last success, unless `report` is false."""
        self.problem = problem
        if report and not self._reported_failure:
            self._reported_failure = True
            self.report(problem)

    def succeeded(self, queued: int, dropped: int) -> None:
        """Record a success. Report a recovery after a reported failure, and losses once the queue is empty.

        Args:
            queued: items still waiting.
            dropped: items lost since the start.
        """
        lost = dropped - self._reported_lost
        recovered, self._reported_failure = self._reported_failure, False
        self.problem = None
        if recovered:
            loss = f"; {counted(lost, self._item)} lost" if lost else ""
            self.report(self._recovered + loss)
        elif lost and not queued:
            self.report(f"{self._too_slow}: {counted(lost, self._item)} lost")
        if recovered or not queued:
            self._reported_lost = dropped

    def refused(self, reason: str, outcome: str, *, lost: bool) -> None:
        """Record a refused item. Report it and its outcome, unless the last refusal had the same reason."""
        if reason != self._reported_refusal:
            self._reported_refusal = reason
            self.report(f"{reason}: {outcome}")
        self._reported_lost += lost

    def tended(self, problem: str | None) -> None:
        """Record the result of periodic work, with the problem or None. Report the first failure and a recovery."""
        if problem is None and self.upkeep_problem is not None:
            self.report("periodic work recovered")
        elif problem is not None and self.upkeep_problem is None:
            self.report(problem)
        self.upkeep_problem = problem

    def lost_at_closing(self, lost: int) -> None:
        """Report the items lost at the end of the run."""
        if lost:
            self.report(f"{counted(lost, self._item)} lost at shutdown: {self.problem or self._too_slow}")

    def report(self, text: str) -> None:
        """Report a line, prefixed with the label."""
        self._on_problem(f"{self.label}: {text}")
