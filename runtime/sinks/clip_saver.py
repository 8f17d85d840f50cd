"""Encodes and saves clips in a thread behind a bounded queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

from twincar_edge.cores import lower_priority
from twincar_edge.errors import TwincarError
from twincar_edge.runtime.monitoring.status import SinkStatus
from twincar_edge.runtime.sinks.backlog import DRAIN_S, Backlog
from twincar_edge.runtime.sinks.base import DeliveryError
from twincar_edge.runtime.sinks.clips import Clip, ClipRules, write_clip
from twincar_edge.runtime.sinks.encoding import require_encoder
from twincar_edge.runtime.sinks.failures import FailureReporter
from twincar_edge.runtime.sinks.queued import Item
from twincar_edge.runtime.sinks.visit_folder import VisitFolder
from twincar_edge.runtime.supervised import SupervisedThread

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 8
TEND_S = 600.0  # between calls of `VisitFolder.sweep`, which does nothing unless a sweep is due


class ClipSaver:
    """Saves clips in its own thread, as a `Delivery` does for events.

    The camera threads call `put`, which does not block: if clips arrive faster than they are encoded, the oldest
    queued clip is dropped and counted.
    """

    def __init__(
        self,
        folder: VisitFolder,
        name: str,
        rules: ClipRules | None = None,
        *,
        stop: threading.Event | None = None,
        limit: int = QUEUE_LIMIT,
        on_problem: Callable[[str], None] = logger.warning,
    ) -> None:
        """Prepare; entering the context starts the thread.

        Args:
            folder: where clips are saved.
            name: the sink's name in status and messages.
            rules: when clips start and end, for the cameras' footage buffers.
            stop: set when the run is to end: from then on nothing waits for the encoder.
            limit: maximum number of queued clips.
            on_problem: called with one line when saving starts to fail, and with one when it recovers.

        Raises:
            TwincarError: no encoder is available; see `require_encoder`.
        """
        require_encoder()
        self.name = name
        self.rules = rules or ClipRules()
        self._folder = folder
        self._stop = stop or threading.Event()
        self._backlog: Backlog[Clip] = Backlog(limit, time.monotonic)
        self._waits = False
        self._failures = FailureReporter(name, "clip", "saving recovered", "encoding too slow", on_problem)
        self._thread = SupervisedThread(self._save_all, name, pause=self._backlog.pause, wanted=self._backlog.is_open)

    def __enter__(self) -> Self:
        """Create the folder and start the thread.

        Raises:
            InputError: the folder cannot be created.
        """
        self._folder.make()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Save the queued clips: within `DRAIN_S`, or, after `wait_for_room`, without a limit."""
        self.stop()
        self._backlog.join(self._thread, self._stop)
        self._failures.lost_at_closing(self._backlog.drop_rest())

    def wait_for_room(self) -> None:
        """Make `put` wait instead of dropping clips, for runs whose sources can wait."""
        self._waits = True

    def put(self, clip: Clip) -> None:
        """Queue a clip. If the queue is full, drop the oldest, or, after `wait_for_room`, wait for room."""
        self._backlog.put(clip, wait_until=self._stop if self._waits else None)

    def stop(self) -> None:
        """Reject new clips and start to drain."""
        self._backlog.stop(None if self._waits else DRAIN_S)

    def status(self) -> SinkStatus:
        """Return the sink's state."""
        queued, delivered, dropped = self._backlog.counts()
        return SinkStatus(self.name, queued, 0, delivered, dropped, self._failures.current, local=True)

    def faults(self) -> list[str]:
        """Return a line if the thread failed recently."""
        return [] if self._thread.problem is None else [self._thread.problem]

    def _save_all(self) -> None:
        lower_priority()  # below the loop's threads
        self._backlog.requeue()  # after an error ended the previous call
        while (item := self._backlog.take(TEND_S)) is not None:
            try:
                self._folder.sweep()
                self._failures.tended(None)
            except DeliveryError as error:
                self._failures.tended(str(error))
            if not isinstance(item, Item):
                continue
            problem = self._save(item.event)
            self._backlog.done(item.number, delivered=problem is None, dropped=problem is not None)
            if problem is not None:
                self._failures.failed(problem)
            else:
                queued, _saved, dropped = self._backlog.counts()
                self._failures.succeeded(queued, dropped)

    def _save(self, clip: Clip) -> str | None:
        """Save a clip; return the reason of a failure, or None."""
        try:
            self._folder.save(clip.name, lambda path: write_clip(path, clip.pictures))
        except (TwincarError, OSError) as error:
            return str(error)
        except Exception as error:  # a codec's bug must stop neither the loop nor later clips
            logger.debug("%s: unexpected error", self.name, exc_info=True)
            return f"{type(error).__name__}: {error}"
        return None
