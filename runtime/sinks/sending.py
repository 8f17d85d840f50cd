"""The sender of a delivery: hands events to the sink in order, and decides what becomes of those that it refuses.

A refused event may be at fault, or its receiver. The events behind it decide: one that is refused again after a
neighbor was accepted is set aside. Where `REFUSED_IN_A_ROW` are refused, the fault is the receiver's: all of them
wait, and are tried again in order.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Sequence

from twincar_edge.errors import TwincarError
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.events import Event, StoredEvent
from twincar_edge.runtime.sinks.backlog import Backlog, Idle, Item, OnDisk
from twincar_edge.runtime.sinks.base import NO_CROP, Crop, DeliveryError, RefusedError, Sink, UnreadableError
from twincar_edge.runtime.sinks.failures import FailureReporter
from twincar_edge.runtime.sinks.resend import POLL_S, Resend
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.storage.database import DatabaseError

logger = logging.getLogger(__name__)

Waiting = Event | str  # an event, or its JSON as it was on disk
REFUSED_IN_A_ROW = 8
_REPORT_AFTER_S = 60.0  # a refusal that no other event has decided for so long is reported
_MOST_UNSAVED = 1000
_UNREADABLE_AFTER = 3  # attempts to read the spool


def as_json(event: Waiting) -> str:
    """Return an event as one line of JSON."""
    return event if isinstance(event, str) else event.to_json()


class Sender:
    """Hands the events of a backlog to a sink, until the backlog ends.

    Attributes:
        ended: set when the sender uses the spool no more.
    """

    def __init__(
        self,
        sink: Sink,
        backlog: Backlog[Waiting],
        failures: FailureReporter,
        backoff: Backoff,
        *,
        spool: Spool | None,
        spool_fails: Callable[[DatabaseError], None],
        retry: bool,
        finished: Sequence[tuple[str, Collection[str]]],
        on_gone: Callable[[], None] | None,
        clock: Callable[[], float],
    ) -> None:
        """Take the parts of a `Delivery`, which describes them.

        Args:
            sink: open when `run` begins, and closed by it.
            backlog: what is to be sent.
            failures: receives failures and successes.
            backoff: how long to wait between attempts.
            spool: where events are that the backlog calls on disk.
            spool_fails: receives errors of the spool.
            retry: try again after a failure, instead of dropping the event.
            finished: cameras that have come to the end of their files, with those files; filled meanwhile.
            on_gone: called once when the reader of the sink has gone for good.
            clock: monotonic seconds.
        """
        self.ended = threading.Event()
        self._sink = sink
        self._backlog = backlog
        self._failures = failures
        self._backoff = backoff
        self._spool = spool
        self._spool_fails = spool_fails
        self._retry = retry
        self._finished = finished
        self._on_gone = on_gone
        self._clock = clock
        self._resend = None if spool is None else Resend(spool, failures.label)
        self._unread = 0  # attempts to read the spool that failed, in a row
        self._unsaved: list[tuple[str, str]] = []  # set aside, but not on disk yet: reason and event
        self._refusing_since_s: float | None = None
        self._tend_at_s = -math.inf

    def run(self) -> None:
        """Send until the backlog ends, then close the sink. After an error, another call continues."""
        self._backlog.reclaim()  # what it held when an error ended it
        self._tend()
        while (place := self._backlog.take(self._idle_s())) is not None:
            if not isinstance(place, Idle) and (item := self._item(place)) is not None:
                self._deliver(item)
            self._save_aside()
            self._send_again()
            self._tend()
        self._save_aside()
        self._backlog.sender_ended()
        self.ended.set()
        try:
            if self._backlog.all_delivered():
                for camera, recordings in self._finished:
                    self._sink.finished(camera, recordings)
            self._sink.close()
        except (TwincarError, OSError) as error:
            self._failures.failed(str(error))

    def _item(self, place: Item[Waiting] | OnDisk) -> Item[Waiting] | None:
        """Return an event, read from the spool where it is there; None if there is none, or it cannot be read now."""
        if isinstance(place, Item):
            return place
        assert self._spool is not None
        try:
            entry = self._spool.first(place.after)
        except DatabaseError as error:
            self._spool_fails(error)
            self._backlog.note_disk(readable=False)
            self._backlog.give_back()
            self._unread += 1
            if self._unread >= _UNREADABLE_AFTER:  # live events must not wait for the disk
                self._spool.leave(place.through)
                self._backlog.skip(place)
            else:
                self._backlog.pause(self._backoff.next_s())
            return None
        if self._unread:
            self._unread = 0
            self._backlog.note_disk(readable=True)
        if entry is None:
            self._backlog.skip(place)
            return None
        number, text = entry
        return Item(number, text, NO_CROP, self._clock())

    def _deliver(self, item: Item[Waiting]) -> None:
        """Deliver an event; where it is refused, go on to those behind it, which decide whose fault that is."""
        refused: list[Item[Waiting]] = []
        while (error := self._error_of(item)) is not None:
            if isinstance(error, BrokenPipeError):
                self._reader_has_gone()
            elif not self._retry:
                self._failures.failed(str(error))
                self._done(item.number, dropped=1)
            elif not isinstance(error, RefusedError):
                self._wait_after(error)
            elif isinstance(error, UnreadableError) and not refused:
                self._settle(item.number, 0, [(str(error), item)])
            else:
                self._backlog.hold(item)
                refused.append(item)
                item_behind = self._behind(refused)
                if item_behind is not None:
                    item = item_behind
                    continue
                self._wait_for_verdict(str(error), len(refused))
            return
        self._accepted(item, refused)

    def _behind(self, refused: Sequence[Item[Waiting]]) -> Item[Waiting] | None:
        if len(refused) >= REFUSED_IN_A_ROW or (place := self._backlog.take_next()) is None:
            return None
        return self._item(place)

    def _error_of(self, item: Item[Waiting]) -> TwincarError | OSError | None:
        """Hand an event to the sink; return why that failed, or None. A bug in the sink counts as a refusal."""
        try:
            self._hand_over(item.event, item.crop_bgr)
        except (TwincarError, OSError) as error:
            return error
        except Exception as error:  # must stop neither the loop nor later events
            logger.debug("%s: a bug", self._failures.label, exc_info=True)
            return RefusedError(f"{type(error).__name__}: {error}")
        return None

    def _hand_over(self, event: Waiting, crop_bgr: Crop) -> None:
        if isinstance(event, Event):
            self._sink.write(event, crop_bgr)
            return
        try:
            stored = StoredEvent(event)
        except ValueError as error:
            raise UnreadableError(f"what was stored is no event: {error}") from error
        self._sink.write_stored(stored)

    def _accepted(self, accepted: Item[Waiting], refused: Sequence[Item[Waiting]]) -> None:
        """Settle a run of refusals that an accepted event has ended: each of them gets one more chance."""
        aside = []
        for item in refused:
            error = self._error_of(item)
            if error is not None and not isinstance(error, RefusedError):
                self._wait_after(error)
                return
            if error is not None:
                aside.append((str(error), item))
        self._settle(accepted.number, 1 + len(refused) - len(aside), aside)

    def _settle(self, through: int, delivered: int, aside: Sequence[tuple[str, Item[Waiting]]]) -> None:
        """Note that all events up to a number are dealt with, so many of them delivered."""
        kept = self._spool is not None
        outcome = "set aside; `twincar-edge events resend` sends it again" if kept else "given up"
        for reason, item in aside:
            self._failures.refused(reason, f"the event is {outcome}", lost=not kept)
            if kept:
                self._unsaved.append((reason, as_json(item.event)))
        self._save_aside()
        self._done(through, delivered=delivered, **{"aside" if kept else "dropped": len(aside)})
        if delivered:
            self._backoff.reset()
            self._refusing_since_s = None
            queued, _delivered, dropped = self._backlog.counts()
            self._failures.succeeded(queued, dropped)

    def _save_aside(self) -> None:
        """Write to disk what is set aside; while the disk is full, the newest wait in memory."""
        if self._unsaved and self._spool is not None:
            try:
                self._spool.set_aside(self._unsaved)
                self._unsaved.clear()
            except DatabaseError as error:
                self._spool_fails(error)
                del self._unsaved[:-_MOST_UNSAVED]

    def _wait_for_verdict(self, reason: str, refused: int) -> None:
        """Wait until another event comes, or, where many in a row were refused, as after any failure."""
        if self._refusing_since_s is None:
            self._refusing_since_s = self._clock()
        sure = refused >= REFUSED_IN_A_ROW
        self._failures.failed(reason, report=sure or self._clock() - self._refusing_since_s >= _REPORT_AFTER_S)
        self._backlog.give_back()
        self._backlog.pause(self._backoff.next_s(), or_news=not sure)

    def _wait_after(self, error: TwincarError | OSError) -> None:
        """Wait before the next attempt: the receiver cannot take events now."""
        self._failures.failed(str(error))
        asked_s = error.retry_after_s or 0.0 if isinstance(error, DeliveryError) else 0.0
        self._backlog.give_back()
        self._backlog.pause(max(self._backoff.next_s(), asked_s), asked_s=asked_s)

    def _reader_has_gone(self) -> None:
        self._failures.problem = "the reader of the events has gone"
        self._backlog.discard()
        if self._on_gone is not None:
            self._on_gone()

    def _done(self, number: int, *, delivered: int = 0, dropped: int = 0, aside: int = 0) -> None:
        if self._backlog.done(number, delivered=delivered, dropped=dropped, aside=aside):
            assert self._spool is not None
            try:
                self._spool.remove(number)
            except DatabaseError as error:
                self._spool_fails(error)

    def _tend(self) -> None:
        if self._clock() < self._tend_at_s:
            return
        self._tend_at_s = self._clock() + self._sink.tend_s
        try:
            self._sink.tend()
        except (TwincarError, OSError) as error:
            self._failures.failed(str(error))

    # -- Sending again what was set aside

    def _idle_s(self) -> float:
        """Return how long to wait for an event before looking for a request, and for what is due."""
        if self._resend is None:
            return self._sink.tend_s
        return 0.0 if self._resend.active else min(POLL_S, self._sink.tend_s)

    def _send_again(self) -> None:
        """Send one of the events that were set aside, where that is asked for."""
        if self._resend is None:
            return
        try:
            entry = self._resend.next()
            if entry is None:
                return
            number, text = entry
            error = self._error_of(Item(number, text, NO_CROP, self._clock()))
            if error is None:
                self._resend.delivered(number)
                queued, _delivered, dropped = self._backlog.counts()
                self._failures.succeeded(queued, dropped)
            elif isinstance(error, RefusedError):
                self._resend.refused(number)
            else:
                self._failures.failed(str(error))
                self._backlog.pause(self._backoff.next_s())
        except DatabaseError as error:
            self._spool_fails(error)
            self._backlog.pause(self._backoff.next_s())
