"""The camera loop as an iterator of events, for Python programs."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from twincar_edge.arguments import checked_arguments, require_at_least
from twincar_edge.runtime.configuration.config import WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.log_rate import is_logged
from twincar_edge.runtime.loop.summary import WatchSummary
from twincar_edge.runtime.monitoring.status import LoopStatus
from twincar_edge.runtime.sinks.base import Crop, Sink
from twincar_edge.runtime.sources import Source
from twincar_edge.runtime.watch import Watch

logger = logging.getLogger(__name__)

MAX_QUEUE = 1000  # events; each takes a few kilobytes
_COLLECTED_S = 3.0  # how long garbage collection waits for the loop


class EventStream(Iterator[Event]):
    """The events of one run of the camera loop, which runs in its own thread.

    Up to `max_queue` events are queued for the consumer. When the queue is full, a run over files and folders blocks
    until there is room, and loses nothing. A run with a live camera never blocks: it drops the oldest event, counts it
    in `dropped`, and logs it.

    Iteration ends when all cameras have ended, after `stop`, or after `close`. If the loop fails, the iterator first
    yields the events before the error, then raises it. The loop stops and releases its cameras when the stream is
    closed, exited as a context manager, or garbage collected; after `break` out of `for event in tw.watch(...)`, that
    is immediately. Only one thread may iterate; the other methods may be called from any thread.

    >>> with tw.watch(tw.demo_clip(), model=tw.demo_model()) as events:
    ...     first = next(events)
    ...     events.stop()
    ...     last = list(events)[-1]
    >>> first.type, last.type, events.dropped
    ('start', 'end', 0)
    >>> events.summary.visits > 0
    True
    """

    @checked_arguments
    def __init__(
        self,
        config: WatchConfig,
        *,
        classifier: Classifier | None = None,
        sources: Mapping[str, Source] | None = None,
        max_queue: int = MAX_QUEUE,
    ) -> None:
        """Open sources and model, and start the loop.

        Args:
            config: cameras and model. Settings of the service (`sinks`, `monitor`, …) are ignored.
            classifier: an open model to use instead of `config.model`.
            sources: open sources by camera name, used instead of the configured ones.
            max_queue: the most events that are queued for the consumer.

        Raises:
            TwincarError: see `runtime.watch.watch`.
        """
        require_at_least(1, max_queue=max_queue)
        self._queue = _EventQueue(max_queue)
        self._watch = Watch(config, [self._queue], sources=sources, classifier=classifier)
        self._watch.__enter__()
        self._queue.blocks = not any(camera.newest_only for camera in self._watch.cameras)
        # The thread must not reference this object, or it would never be garbage collected.
        self._thread = threading.Thread(target=_run, args=(self._watch, self._queue), name="events", daemon=True)
        self._finalizer = weakref.finalize(self, _end, self._watch.stop, self._queue, self._thread, _COLLECTED_S)
        self._thread.start()

    def __next__(self) -> Event:
        """Return the next event, waiting for one if the queue is empty.

        Raises:
            StopIteration: the run has ended.
            TwincarError: the run has failed; raised once.
        """
        try:
            event = self._queue.take()
        except BaseException:  # the loop's error, or Ctrl-C while waiting
            self.close()
            raise
        if event is None:
            self.close()
            raise StopIteration
        return event

    def stop(self) -> None:
        """Stop the run after the current frames; the iterator still yields the remaining events."""
        self._watch.stop.set()

    def close(self) -> None:
        """End the run, discard queued events, and wait until the cameras are released; may be called repeatedly."""
        self._finalizer.detach()
        _end(self._watch.stop, self._queue, self._thread, None)

    def __enter__(self) -> Self:
        """Return the stream, which is already running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def dropped(self) -> int:
        """Return how many events of live cameras were dropped because the consumer was too slow."""
        return self._queue.dropped

    @property
    def summary(self) -> WatchSummary | None:
        """Return the summary of the run; None until it ends, or if it failed."""
        return self._queue.summary

    def status(self) -> LoopStatus:
        """Return the current status of the run: cameras, crops, visits and latencies."""
        return self._watch.status()


class _EventQueue(Sink):
    """A sink that queues events for the consumer, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.blocks = True
        self.dropped = 0
        self.summary: WatchSummary | None = None
        self._limit = limit
        self._events: deque[Event] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._discarding = False
        self._changed = threading.Condition()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Add an event; if the queue is full, wait for room or drop the oldest event."""
        with self._changed:
            if self.blocks:
                self._changed.wait_for(lambda: self._discarding or len(self._events) < self._limit)
            if self._discarding:
                return
            if len(self._events) == self._limit:
                self._events.popleft()
                self.dropped += 1
                if is_logged(self.dropped - 1, self.dropped):
                    logger.warning("event consumer too slow, events dropped so far: %d", self.dropped)
            self._events.append(event)
            self._changed.notify_all()

    def end(self, summary: WatchSummary | None, error: BaseException | None = None) -> None:
        """Mark the end of the events, with the summary or the error of the run."""
        with self._changed:
            self.summary, self._error, self._ended = summary, error, True
            self._changed.notify_all()

    def discard(self) -> None:
        """Discard the queued events and all later ones."""
        with self._changed:
            self._discarding = True
            self._events.clear()
            self._changed.notify_all()

    def take(self) -> Event | None:
        """Wait for the oldest event and return it; None at the end. Raises the run's error, once."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._ended or self._discarding)
            if self._events:
                event = self._events.popleft()
                self._changed.notify_all()
                return event
            error, self._error = self._error, None
        if error is not None and not self._discarding:
            raise error
        return None


def _run(watch: Watch, queue: _EventQueue) -> None:
    try:
        with ExitStack() as stack:
            stack.push(watch)  # the thread that opened the stream has entered it
            summary = watch.run()
    except BaseException as error:  # noqa: BLE001 - `take` raises it in the consumer's thread
        queue.end(None, error)
    else:
        queue.end(summary)


def _end(stop: threading.Event, queue: _EventQueue, thread: threading.Thread, timeout_s: float | None) -> None:
    stop.set()
    queue.discard()
    if thread is not threading.current_thread():
        thread.join(timeout_s)
