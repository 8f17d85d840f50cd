"""Threads that restart after an unhandled error."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.log_rate import is_logged

logger = logging.getLogger(__name__)

STEADY_S = 60.0


class SupervisedThread(threading.Thread):
    """A daemon thread that restarts its work after an unhandled error, with backoff. Work that returns is done.

    Attributes:
        failures: how often the work has failed.
    """

    def __init__(
        self,
        work: Callable[[], None],
        name: str,
        *,
        pause: Callable[[float], object] = time.sleep,
        wanted: Callable[[], bool] = lambda: True,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the settings; `start` starts the thread.

        Args:
            work: the function to run; it must be safe to call again after an error.
            name: the thread's name.
            pause: waits for that many seconds, or until the run ends.
            wanted: returns whether to restart; it must return False once the run has ended, or the thread never ends.
            backoff: the delays before restarts.
            clock: the monotonic clock, in seconds.
        """
        super().__init__(name=name, daemon=True)
        self.failures = 0
        self._work = work
        self._pause = pause
        self._wanted = wanted
        self._backoff = backoff or Backoff(0.1, 30.0)
        self._clock = clock
        self._last: tuple[str, float] | None = None

    @property
    def problem(self) -> str | None:
        """Describe the last error if it was less than a minute ago; otherwise return None."""
        last = self._last
        if last is None or self._clock() - last[1] >= STEADY_S:
            return None
        return f"thread {self.name!r} failed and was restarted ({self.failures} failures so far): {last[0]}"

    def run(self) -> None:
        """Run the work, and restart it after each error."""
        while True:
            started_s = self._clock()
            try:
                self._work()
                return
            except Exception as error:
                if self._clock() - started_s >= STEADY_S:
                    self._backoff.reset()
                self.failures += 1
                self._last = f"{type(error).__name__}: {error}", self._clock()
                if is_logged(self.failures - 1, self.failures):
                    logger.error("%s", self.problem, exc_info=logger.isEnabledFor(logging.DEBUG))
            self._pause(self._backoff.next_s())
            if not self._wanted():
                return
