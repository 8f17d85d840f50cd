"""Between the loop and a sink: a bounded queue with a thread of its own, and a spool on disk behind it.

The loop calls `put`, which does not wait: a camera does not, either. Only where every source of a run can, as files
can, may what has no spool be told to let `put` wait for room. One thread hands the events to the sink, in order, and
tries again when that fails. Where there is a spool, a second thread writes to disk whatever has not been delivered
within a moment: a receiver that is quick costs the disk nothing, and one that is away, or hangs, costs no event. What
was kept is sent after a restart too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, get_args

from pydantic import ValidationError

from twincar_edge.errors import TwincarError, first_fault
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.events import Event, EventType
from twincar_edge.runtime.monitoring.status import SinkStatus
from twincar_edge.runtime.sinks.backlog import DRAIN_S, Backlog, Item
from twincar_edge.runtime.sinks.base import NO_CROP, Crop, DeliveryError, RefusedError, Sink
from twincar_edge.runtime.sinks.spool import Spool, SpoolError
from twincar_edge.runtime.sinks.trouble import Trouble

logger = logging.getLogger(__name__)

ALL_TYPES: frozenset[EventType] = frozenset(get_args(EventType))
KEEP_AFTER_S = 0.2
_KEEP_GRACE_S = 1.0


@dataclass(frozen=True)
class Terms:
    """What a sink is given, and how.

    Attributes:
        types: the kinds of event that it takes.
        limit: how many events wait in memory.
        crops: it takes pictures. They are large, and never go to the spool.
        retry: try again what failed, instead of dropping it.
        drain_s: how long closing waits for the sink to take what waits; None for as long as that needs, or for
            `DRAIN_S` once the run is to stop.
    """

    types: frozenset[EventType] = ALL_TYPES
    limit: int = 1000
    crops: bool = False
    retry: bool = True
    drain_s: float | None = DRAIN_S

    def take(self, event: Event) -> bool:
        """Return whether the sink is given this event: that there was no vehicle, only if it was told of one."""
        return event.type in self.types and not (event.false_positive and self.types == {"end"})


class Delivery:
    """Owns a sink, its queue, its threads and its spool. It is a sink itself, whose `write` never raises.

    Nor does it wait, if it is not told to by `wait_for_room`.
    """

    def __init__(
        self,
        sink: Sink,
        name: str,
        terms: Terms | None = None,
        *,
        spool: Spool | None = None,
        backoff: Backoff | None = None,
        keep_after_s: float = KEEP_AFTER_S,
        on_problem: Callable[[str], None] = logger.warning,
        on_gone: Callable[[], None] | None = None,
        label: str | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing runs before the block is entered.

        Args:
            sink: entered with the block; used and closed by the thread.
            name: of the sink, for its status.
            terms: what the sink is given, and how.
            spool: where what cannot be delivered waits; None for what may be lost.
            backoff: how long to wait between attempts.
            keep_after_s: how long an event may be in memory only.
            on_problem: gets one line when delivery begins to fail, and one when it is well again.
            on_gone: called once, by the thread, when the sink's reader has gone for good.
            label: what to call the sink in messages, without secrets, where its name does not tell where it is.
            stop: set when the run is to end: from then on nobody waits for a slow sink.
            clock: seconds that only rise.
        """
        self.name = name
        self._sink = sink
        self._terms = terms or Terms()
        self._spool = spool
        self._backoff = backoff or Backoff()
        self._keep_after_s = keep_after_s
        self._on_problem = on_problem
        self._on_gone = on_gone
        self._label = label or name
        self._stop = stop or threading.Event()
        self._waits = False
        self._clock = clock
        self._backlog: Backlog[Event] = Backlog(self._terms.limit, clock)
        self._trouble = Trouble(self._label, "events", "delivers again", "it is too slow", on_problem)
        self._spool_problem: str | None = None
        self._sent = threading.Event()  # the sender does not touch the spool any more
        self._sender = threading.Thread(target=self._send, name=f"{name} sender", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name=f"{name} keeper", daemon=True)

    def __enter__(self) -> Self:
        """Open sink and spool, and start.

        Raises:
            InputError: the sink can never work as it is set up, or the spool cannot be opened.
        """
        self._sink.__enter__()
        try:
            if self._spool is not None:
                self._spool.open()
                self._backlog.resume(self._spool.last_number)
        except BaseException:
            self._sink.__exit__(None, None, None)
            raise
        self._sender.start()
        if self._spool is not None:
            self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def wait_for_room(self) -> None:
        """From now on `put` waits where it would have to drop: for runs whose sources can wait. A spool has room."""
        self._waits = self._spool is None

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Take an event as `put` does."""
        self.put(event, crop_bgr)

    def put(self, event: Event, crop_bgr: Crop = NO_CROP) -> None:
        """Take an event. In a full queue the oldest makes room, or, after `wait_for_room`, `put` waits for it."""
        if self._terms.take(event):
            until = self._stop if self._waits else None
            self._backlog.put(event, crop_bgr if self._terms.crops else NO_CROP, wait_until=until)

    def status(self) -> SinkStatus:
        """Return how the delivery stands."""
        queued, delivered, dropped = self._backlog.counts()
        spooled = 0 if self._spool is None else self._spool.waiting
        return SinkStatus(self.name, queued, spooled, delivered, dropped, self._trouble.problem or self._spool_problem)

    def stop(self) -> None:
        """Take no more events, and begin to close: for `drain_s`, or for as long as it takes after `wait_for_room`."""
        self._backlog.stop(None if self._waits else self._terms.drain_s)

    def close(self) -> None:
        """Let the sink take what waits, for as long as `stop` allows; the rest is in the spool, or counted as lost."""
        self.stop()
        if self._sender.ident is None:
            return
        self._backlog.join(self._sender, self._stop)
        self._backlog.sent_all()
        if self._spool is not None:
            self._keeper.join(_KEEP_GRACE_S)
            if not self._keeper.is_alive() and self._sent.wait(_KEEP_GRACE_S):
                self._spool.close()
        if lost := self._backlog.lose_rest():
            why = self._trouble.problem or "it is too slow"
            self._on_problem(f"{self._label}: {lost} events are lost at closing: {why}")

    # -- The thread that sends

    def _send(self) -> None:
        try:
            while (place := self._backlog.take()) is not None:
                item = place if isinstance(place, Item) else self._from_spool(*place)
                if item is not None:
                    self._deliver(item)
        finally:
            self._backlog.sent_all()
            self._sent.set()
            try:
                self._sink.__exit__(None, None, None)
            except (TwincarError, OSError) as error:
                self._trouble.begins(str(error))

    def _from_spool(self, after: int, through: int) -> Item[Event] | None:
        assert self._spool is not None
        try:
            entry = self._spool.first(after)
        except SpoolError as error:
            self._spool_fails(error)
            self._backlog.give_up_closing()
            self._backlog.pause(self._backoff.next_s())
            return None
        if entry is None:
            self._backlog.done(through)
            return None
        number, text = entry
        try:
            return Item(number, Event.model_validate_json(text), NO_CROP, self._clock())
        except ValidationError as error:  # another version of this program wrote it
            self._refuse(number, text, f"what waits in the spool is no event: {first_fault(error)}")
            return None

    def _deliver(self, item: Item[Event]) -> None:
        try:
            self._sink.write(item.event, item.crop_bgr)
        except BrokenPipeError:
            self._trouble.problem = "whoever read the events has gone"
            self._backlog.discard()
            if self._on_gone is not None:
                self._on_gone()
        except RefusedError as error:
            self._refuse(item.number, item.event.to_json(), str(error))
        except (TwincarError, OSError) as error:
            self._trouble.begins(str(error))
            if self._terms.retry:
                wait_s = self._backoff.next_s()
                if isinstance(error, DeliveryError) and error.retry_after_s is not None:
                    wait_s = max(wait_s, error.retry_after_s)
                self._backlog.give_back(item)
                self._backlog.pause(wait_s)
            else:
                self._done(item.number, dropped=1)
        except Exception as error:  # a defect of a sink must stop neither the loop nor later events
            logger.debug("%s: a defect", self._label, exc_info=True)
            self._refuse(item.number, item.event.to_json(), f"{type(error).__name__}: {error}")
        else:
            self._backoff.reset()
            self._done(item.number, delivered=1)
            queued, _delivered, dropped = self._backlog.counts()
            self._trouble.is_over(queued, dropped)

    def _refuse(self, number: int, event: str, reason: str) -> None:
        self._on_problem(f"{self._label}: an event is given up: {reason}")
        if self._spool is not None:
            try:
                self._spool.refuse(event, reason)
            except SpoolError as error:
                self._spool_fails(error)
        self._trouble.told_of(1)
        self._done(number, dropped=1)

    def _done(self, number: int, *, delivered: int = 0, dropped: int = 0) -> None:
        if self._backlog.done(number, delivered=delivered, dropped=dropped):
            self._forget(number)

    # -- The thread that keeps on disk what was not delivered at once

    def _keep(self) -> None:
        assert self._spool is not None
        backoff = Backoff(limit_s=10.0)
        while (batch := self._backlog.overdue(self._keep_after_s)) is not None:
            try:
                displaced = self._spool.add([(item.number, item.event.to_json()) for item in batch])
            except SpoolError as error:
                self._spool_fails(error)
                if not self._backlog.not_kept(backoff.next_s()):
                    return
                continue
            backoff.reset()
            self._spool_problem = None
            if displaced:
                self._trouble.begins("the spool is full, and the oldest events make room")
            done_through = self._backlog.kept(batch, displaced)
            if done_through >= batch[0].number:  # delivered while it was being written
                self._forget(done_through)

    def _forget(self, number: int) -> None:
        assert self._spool is not None
        try:
            self._spool.forget(number)
        except SpoolError as error:
            self._spool_fails(error)

    # -- One line when trouble begins, and one when it is over

    def _spool_fails(self, error: SpoolError) -> None:
        first, self._spool_problem = self._spool_problem is None, str(error)
        if first:
            self._on_problem(f"{self._label}: {error}; up to {self._terms.limit} events wait in memory")
