"""A delivery runs a sink in its own thread, behind a bounded queue and, for most kinds, a spool on disk.

The loop calls `put`, which does not block, because a camera does not wait. (If all sources are files, a sink without a
spool can make `put` wait for room.) A sender thread passes events to the sink and retries failures, in order except for
refused events. With a spool, a writer thread persists events that were not delivered within `PERSIST_AFTER_S`: a fast
receiver causes no disk writes, and an unreachable or hanging one loses no event. After a restart the spooled events are
sent first.

The sender is in `sending.py`, the writer here.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import get_args

from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.events import Event, EventType
from twincar_edge.runtime.monitoring.status import SinkStatus
from twincar_edge.runtime.sinks.backlog import DRAIN_S, Backlog
from twincar_edge.runtime.sinks.base import NO_CROP, Crop, Sink
from twincar_edge.runtime.sinks.failures import FailureReporter
from twincar_edge.runtime.sinks.sending import QueuedEvent, Sender, as_json
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.storage.database import DatabaseError
from twincar_edge.runtime.supervised import SupervisedThread
from twincar_edge.wording import counted

logger = logging.getLogger(__name__)

ALL_TYPES: frozenset[EventType] = frozenset(get_args(EventType))
PERSIST_AFTER_S = 0.2
TOO_OLD_S = 300.0
_WRITER_GRACE_S = 1.0


@dataclass(frozen=True)
class DeliveryPolicy:
    """Which events a sink gets, and how they are queued and retried.

    Attributes:
        types: the event types to deliver.
        limit: maximum number of events in memory.
        crops: deliver pictures too. They are large and never spooled.
        retry: retry after a failure instead of dropping the event.
        local: the sink writes to a disk of this machine.
        drain_s: how long closing waits for queued events. None waits until the queue is empty, or for `DRAIN_S` once
            the run is to stop.
    """

    types: frozenset[EventType] = ALL_TYPES
    limit: int = 1000
    crops: bool = False
    retry: bool = True
    local: bool = False
    drain_s: float | None = DRAIN_S

    def accepts(self, event: Event) -> bool:
        """Return whether the sink gets this event. A false positive goes only to sinks that saw the visit start."""
        return event.type in self.types and not (event.false_positive and self.types == {"end"})


class Delivery(Sink):
    """Owns a sink, its queue, its threads and its spool.

    A delivery is a sink itself, whose `write` never raises, and blocks only after `wait_for_room`.
    """

    def __init__(
        self,
        sink: Sink,
        name: str,
        policy: DeliveryPolicy | None = None,
        *,
        terms: DeliveryPolicy | None = None,
        spool: Spool | None = None,
        backoff: Backoff | None = None,
        persist_after_s: float = PERSIST_AFTER_S,
        on_problem: Callable[[str], None] = logger.warning,
        on_gone: Callable[[], None] | None = None,
        label: str | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `open` starts the threads.

        Args:
            sink: opened by `open`; used and closed by the sender's thread.
            name: the sink's name in status and metrics.
            policy: which events the sink gets, and how; the default policy if not given.
            terms: deprecated since 0.3, use `policy`.
            spool: queue on disk for undelivered events; None for a sink that may lose events.
            backoff: delays between attempts.
            persist_after_s: how long an event may be in memory only.
            on_problem: called with one line when delivery starts to fail, and with one when it recovers.
            on_gone: called once, in the sender's thread, when the reader closed the sink's stream.
            label: the sink's name in messages, without secrets; `name` if not given.
            stop: set when the run is to end: from then on nothing waits for a slow sink.
            clock: monotonic seconds.
        """
        self.name = name
        self._sink = sink
        if terms is not None:
            warnings.warn("the parameter `terms` is now `policy`", DeprecationWarning, stacklevel=2)
        self._policy = policy or terms or DeliveryPolicy()
        self._spool = spool
        self._persist_after_s = persist_after_s
        self._stop = stop or threading.Event()
        self._waits = False
        self._lost: list[int] = []  # numbers of the events lost at closing
        self._finished: list[tuple[str, Collection[str]]] = []
        self._clock = clock
        self._backlog: Backlog[QueuedEvent] = Backlog(self._policy.limit, clock)
        self._failures = FailureReporter(label or name, "event", "delivery recovered", "too slow", on_problem)
        self._spool_problem: str | None = None
        self._sending = Sender(
            sink,
            self._backlog,
            self._failures,
            backoff or Backoff(),
            spool=spool,
            spool_fails=self._spool_fails,
            retry=self._policy.retry,
            finished=self._finished,
            on_gone=on_gone,
            clock=clock,
        )
        pause, wanted = self._backlog.pause, self._backlog.is_open
        self._sender = SupervisedThread(self._sending.run, f"{name} sender", pause=pause, wanted=wanted)
        self._writer = SupervisedThread(self._write_spool, f"{name} spool writer", pause=pause, wanted=wanted)

    def open(self) -> None:
        """Open the sink and the spool, and start the threads.

        Raises:
            InputError: the sink's settings can never work, or the spool cannot be opened.
        """
        self._sink.open()
        if self._spool is not None:
            try:
                self._spool.open()
            except BaseException:
                self._sink.close()
                raise
            self._backlog.resume(self._spool.last_number)
            if self._spool.aside:
                number = counted(self._spool.aside, "event")
                self._failures.report(f"{number} set aside: `twincar-edge events resend` sends them again")
            self._writer.start()
        self._sender.start()

    def wait_for_room(self) -> None:
        """Make `put` wait instead of dropping events, for runs whose sources can wait. No effect with a spool."""
        self._waits = self._spool is None

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Queue an event; see `put`."""
        self.put(event, crop_bgr)

    def put(self, event: Event, crop_bgr: Crop = NO_CROP) -> None:
        """Queue an event. If the queue is full, drop the oldest, or, after `wait_for_room`, wait for room."""
        if self._policy.accepts(event):
            until = self._stop if self._waits else None
            self._backlog.put(event, crop_bgr if self._policy.crops else NO_CROP, wait_until=until)

    def watermark(self) -> Callable[[], bool]:
        """Return a function that tells whether the events put so far are safe: delivered, on disk, or dropped.

        Those lost at closing never are: the next run can repeat them. Without a spool all count as safe at once: such a
        sink may lose events, and may hang forever.
        """
        if self._spool is None:
            return lambda: True
        last = max(self._backlog.in_memory(), default=0)
        return lambda: min([*self._lost, *self._backlog.in_memory()], default=last + 1) > last

    def finished(self, camera: str, recordings: Collection[str]) -> None:
        """Pass `finished` to the sink at closing, if all events were delivered."""
        self._finished.append((camera, recordings))

    def status(self) -> SinkStatus:
        """Return the state of the delivery."""
        queued, delivered, dropped = self._backlog.counts()
        spooled, aside = (0, 0) if self._spool is None else (self._spool.waiting, self._spool.aside)
        oldest_s = self._backlog.oldest_s()
        problem = self._failures.current or self._spool_problem
        if problem is None and oldest_s >= TOO_OLD_S:
            problem = f"oldest event has waited {oldest_s:.0f} s"
        return SinkStatus(self.name, queued, spooled, delivered, dropped, problem, aside, self._policy.local, oldest_s)

    def faults(self) -> list[str]:
        """Return a line for each thread that failed recently."""
        return [thread.problem for thread in (self._sender, self._writer) if thread.problem is not None]

    def stop(self) -> None:
        """Reject new events and start to drain: within `drain_s`, or, after `wait_for_room`, without a limit."""
        self._backlog.stop(None if self._waits else self._policy.drain_s)

    def close(self) -> None:
        """Drain the queue within the limit of `stop`. The rest is spooled, or dropped and counted."""
        self.stop()
        if self._sender.ident is None:
            return
        self._backlog.join(self._sender, self._stop)
        self._backlog.sender_ended()
        if self._spool is not None:
            self._writer.join(2 * _WRITER_GRACE_S)
        self._lost = self._backlog.in_memory()
        self._failures.lost_at_closing(self._backlog.drop_rest())

    # -- The writer's thread

    def _write_spool(self) -> None:
        """Write the spool, then close it: SQLite writes then, too, which may hang with the disk."""
        assert self._spool is not None
        self._persist()
        if self._sending.ended.wait(_WRITER_GRACE_S):
            self._spool.close()

    def _persist(self) -> None:
        assert self._spool is not None
        backoff = Backoff(limit_s=10.0)
        while (batch := self._backlog.next_batch(self._persist_after_s)) is not None:
            try:
                displaced = self._spool.add([(item.number, as_json(item.event)) for item in batch])
            except DatabaseError as error:
                self._spool_fails(error)
                if not self._backlog.persist_failed(backoff.next_s()):
                    return
                continue
            backoff.reset()
            self._spool_problem = None
            if displaced:
                self._failures.failed("spool full; dropping the oldest events")
            done_through = self._backlog.persisted(batch, displaced)
            if done_through >= batch[0].number:  # delivered while it was being written
                try:
                    self._spool.remove(done_through)
                except DatabaseError as error:
                    self._spool_fails(error)
            self._backlog.write_ended()

    def _spool_fails(self, error: DatabaseError) -> None:
        first, self._spool_problem = self._spool_problem is None, str(error)
        if first:
            self._failures.report(f"{error}; queueing up to {self._policy.limit} events in memory")
