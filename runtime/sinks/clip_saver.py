"""Between the cameras and the folder of clips: a bounded queue, and a thread that encodes and writes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

from twincar_edge.cores import lower_priority
from twincar_edge.errors import TwincarError
from twincar_edge.runtime.monitoring.status import SinkStatus
from twincar_edge.runtime.sinks.backlog import DRAIN_S, Backlog, Item
from twincar_edge.runtime.sinks.base import DeliveryError
from twincar_edge.runtime.sinks.clips import Clip, ClipRules, write_clip
from twincar_edge.runtime.sinks.encoding import require_encoder
from twincar_edge.runtime.sinks.failures import FailureReporter
from twincar_edge.runtime.sinks.visit_folder import VisitFolder
from twincar_edge.runtime.supervised import SupervisedThread

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 8
TEND_S = 600.0  # the folder knows for itself what is due


class ClipSaver:
    """Saves clips in a thread of its own: what a `Delivery` is for events, this is for clips.

    A camera's thread calls `put`, which does not block: if clips come faster than they can be encoded, the oldest one
    that waits is dropped and counted.
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
        """Prepare; no thread runs before the block is entered.

        Args:
            folder: where clips are saved.
            name: for status and messages.
            rules: what a clip shows, for the cameras that film it.
            stop: set when the run is to end: from then on nothing waits for the encoder.
            limit: how many clips wait.
            on_problem: gets one line when saving begins to fail, and one when it recovers.

        Raises:
            TwincarError: clips cannot be encoded here; see `require_encoder`.
        """
        require_encoder()
        self.name = name
        self.rules = rules or ClipRules()
        self._folder = folder
        self._stop = stop or threading.Event()
        self._backlog: Backlog[Clip] = Backlog(limit, time.monotonic)
        self._waits = False
        self._failures = FailureReporter(name, "clips", "saves again", "encoding is too slow", on_problem)
        self._thread = SupervisedThread(self._save_all, name, pause=self._backlog.pause, wanted=self._backlog.is_open)

    def __enter__(self) -> Self:
        """Make the folder, and start.

        Raises:
            InputError: the folder cannot be made.
        """
        self._folder.make()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Save what waits: for some seconds, or, after `wait_for_room`, for as long as it takes."""
        self.stop()
        self._backlog.join(self._thread, self._stop)
        self._failures.lost_at_closing(self._backlog.drop_rest())

    def wait_for_room(self) -> None:
        """Make `put` wait where it would have to drop, for runs whose sources can wait."""
        self._waits = True

    def put(self, clip: Clip) -> None:
        """Take a clip. In a full queue it replaces the oldest, or, after `wait_for_room`, waits for room."""
        self._backlog.put(clip, wait_until=self._stop if self._waits else None)

    def stop(self) -> None:
        """Take no more clips, and begin to close."""
        self._backlog.stop(None if self._waits else DRAIN_S)

    def status(self) -> SinkStatus:
        """Return the state of saving."""
        queued, delivered, dropped = self._backlog.counts()
        return SinkStatus(self.name, queued, 0, delivered, dropped, self._failures.problem, local=True)

    def faults(self) -> list[str]:
        """Return that its thread has failed a short while ago, in words."""
        return [] if self._thread.problem is None else [self._thread.problem]

    def _save_all(self) -> None:
        lower_priority()  # the loop's threads go first
        self._backlog.reclaim()  # what it held when an error ended it
        while (item := self._backlog.take(TEND_S)) is not None:
            try:
                self._folder.sweep()
            except DeliveryError as error:
                self._failures.failed(str(error))
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
        """Save a clip; return why that failed, or None."""
        try:
            self._folder.save(clip.name, lambda path: write_clip(path, clip.pictures))
        except (TwincarError, OSError) as error:
            return str(error)
        except Exception as error:  # a bug in a codec must stop neither the loop nor later clips
            logger.debug("%s: a bug", self.name, exc_info=True)
            return f"{type(error).__name__}: {error}"
        return None
