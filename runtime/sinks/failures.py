"""What a sink says about its failures: one line when they begin, one when they are over, with what was lost."""

from __future__ import annotations

from collections.abc import Callable


class FailureReporter:
    """Reports the failures of one sink. Only the thread that sends uses it.

    Attributes:
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
        self._label = label
        self._items = items
        self._recovered = recovered
        self._too_slow = too_slow
        self._on_problem = on_problem
        self._reported_dropped = 0

    def failed(self, problem: str) -> None:
        """Note a failure; report it if the sink worked before."""
        first, self.problem = self.problem is None, problem
        if first:
            self._on_problem(f"{self._label}: {problem}")

    def succeeded(self, queued: int, dropped: int) -> None:
        """Note a success; report it if the sink failed before, or if it is too slow.

        Args:
            queued: items that still wait.
            dropped: items lost since the start.
        """
        lost = dropped - self._reported_dropped
        before, self.problem = self.problem, None
        if before is not None:
            loss = f"; {lost} {self._items} were lost" if lost else ""
            self._on_problem(f"{self._label}: {self._recovered}{loss}")
        elif lost and not queued:
            self._on_problem(f"{self._label}: {self._too_slow}, {lost} {self._items} were lost")
        if before is not None or not queued:
            self._reported_dropped = dropped

    def already_reported(self, lost: int) -> None:
        """Exclude lost items whose reason was reported elsewhere."""
        self._reported_dropped += lost
