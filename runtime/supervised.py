"""Threads that outlive errors: work that ends by an error which it does not handle is started again after a pause."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from twincar_edge.runtime.backoff import Backoff

logger = logging.getLogger(__name__)

STEADY_S = 60.0


class SupervisedThread(threading.Thread):
    """A daemon thread for work that must not stop before the run does. Work that returns has ended for good.

    Attributes:
        failures: how often the work ended by an error.
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
        """Prepare; `start` starts.

        Args:
            work: can be called again after an error, and continues from there.
            name: of the thread.
            pause: waits so many seconds, or until the run ends.
            wanted: says whether to start again; not any more once the run ends, or it would never end.
            backoff: how long to wait before the next start.
            clock: monotonic seconds.
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
        """Return the last error, in words, while the work has not been steady since; or None."""
        last = self._last
        if last is None or self._clock() - last[1] >= STEADY_S:
            return None
        return f"the thread {self.name!r} failed and was started again ({self.failures} so far): {last[0]}"

    def run(self) -> None:
        """Do the work, again after each error."""
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
                if self.failures & (self.failures - 1) == 0:  # the 1st, 2nd, 4th, 8th, …
                    logger.error("%s", self.problem, exc_info=logger.isEnabledFor(logging.DEBUG))
            self._pause(self._backoff.next_s())
            if not self._wanted():
                return
