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
        self._reported_lost = 0
        self._reported_failure = False
        self._reported_refusal: str | None = None

    def failed(self, problem: str, *, report: bool = True) -> None:
        """Note a failure; report it, once, unless it is too early to say (`report`)."""
        self.problem = problem
        if report and not self._reported_failure:
            self._reported_failure = True
            self.report(problem)

    def succeeded(self, queued: int, dropped: int) -> None:
        """Note a success; report it if a failure was reported, or if the sink is too slow.

        Args:
            queued: items that still wait.
            dropped: items lost since the start.
        """
        lost = dropped - self._reported_lost
        before, self._reported_failure = self._reported_failure, False
        self.problem = None
        if before:
            loss = f"; {lost} {self._items} were lost" if lost else ""
            self.report(self._recovered + loss)
        elif lost and not queued:
            self.report(f"{self._too_slow}, {lost} {self._items} were lost")
        if before or not queued:
            self._reported_lost = dropped

    def refused(self, reason: str, outcome: str, *, lost: bool) -> None:
        """Note that one item was refused. Say so, and its outcome, when the reason is another than last time."""
        if reason != self._reported_refusal:
            self._reported_refusal = reason
            self.report(f"{reason}: {outcome}")
        self._reported_lost += lost

    def lost_at_closing(self, lost: int) -> None:
        """Report how many items are lost because the run ends."""
        if lost:
            self.report(f"{lost} {self._items} are lost at closing: {self.problem or self._too_slow}")

    def report(self, text: str) -> None:
        """Say something of the sink."""
        self._on_problem(f"{self.label}: {text}")
