"""The sender of a delivery passes events to the sink in order and handles refusals.

A refusal may be the fault of the event or of the receiver. The next events decide: if one of them is accepted and the
first is refused again, the first is set aside. If `REFUSED_IN_A_ROW` events are refused, the receiver is at fault: all
of them stay queued and are retried in order. A receiver that recovers while a later event is tried gets it first.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Sequence

from twincar_edge.errors import TwincarError
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.events import Event, StoredEvent
from twincar_edge.runtime.sinks.backlog import Backlog
from twincar_edge.runtime.sinks.base import NO_CROP, Crop, DeliveryError, RefusedError, Sink, UnreadableError
from twincar_edge.runtime.sinks.failures import FailureReporter
from twincar_edge.runtime.sinks.queued import Idle, Item, OnDisk
from twincar_edge.runtime.sinks.resend import POLL_S, Resend
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.storage.database import DatabaseError

logger = logging.getLogger(__name__)

QueuedEvent = Event | str  # an event, or its JSON from the spool
REFUSED_IN_A_ROW = 8
_REPORT_AFTER_S = 60.0  # for a refusal without a later event to decide it
_MAX_UNSAVED = 1000
_MAX_READ_FAILURES = 3  # of the spool, in a row


def as_json(event: QueuedEvent) -> str:
    """Return an event as one line of JSON."""
    return event if isinstance(event, str) else event.to_json()


class Sender:
    """Delivers the events of a backlog to a sink until the backlog ends.

    Attributes:
        ended: set when the sender no longer uses the spool.
    """

    def __init__(
        self,
        sink: Sink,
        backlog: Backlog[QueuedEvent],
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
        """Prepare; see `Delivery`.

        Args:
            sink: open when `run` starts; `run` closes it.
            backlog: the events to send.
            failures: receives failures and successes.
            backoff: delays between attempts.
            spool: holds the events that the backlog has on disk.
            spool_fails: called with each error of the spool.
            retry: retry after a failure instead of dropping the event.
            finished: cameras that reached the end of their files, with these files; filled during the run.
            on_gone: called once when the reader closed the sink's stream.
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
        self._read_failures = 0  # of the spool, in a row
        self._unsaved_aside: list[tuple[str, str]] = []  # reason and event, set aside but not yet on disk
        self._refusing_since_s: float | None = None
        self._tend_at_s = -math.inf

    def run(self) -> None:
        """Send until the backlog ends, then close the sink. After an unexpected error, a further call continues."""
        self._backlog.requeue()  # after an error ended the previous call
        self._tend()
        while (place := self._backlog.take(self._take_timeout_s())) is not None:
            if not isinstance(place, Idle) and (item := self._item(place)) is not None:
                self._deliver(item)
            self._save_aside()
            self._resend_one()
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

    def _item(self, place: Item[QueuedEvent] | OnDisk) -> Item[QueuedEvent] | None:
        """Return the event of `place`, read from the spool if necessary; None if it is missing or unreadable now."""
        if isinstance(place, Item):
            return place
        assert self._spool is not None
        try:
            entry = self._spool.first(place.after)
        except DatabaseError as error:
            self._spool_fails(error)
            self._backlog.set_disk_readable(readable=False)
            self._backlog.requeue_failed()
            self._read_failures += 1
            if self._read_failures >= _MAX_READ_FAILURES:  # live events must not wait for the disk
                self._spool.defer(place.through)
                self._backlog.skip(place)
            else:
                self._backlog.pause(self._backoff.next_s())
            return None
        if self._read_failures:
            self._read_failures = 0
            self._backlog.set_disk_readable(readable=True)
        if entry is None:
            self._backlog.skip(place)
            return None
        number, text = entry
        return Item(number, text, NO_CROP, self._clock())

    def _deliver(self, item: Item[QueuedEvent]) -> None:
        """Deliver an event; if it is refused, try the next ones to find out whether the receiver is at fault."""
        refused: list[Item[QueuedEvent]] = []
        while (error := self._try_to_deliver(item)) is not None:
            if isinstance(error, BrokenPipeError):
                self._reader_closed()
            elif not self._retry:
                self._failures.failed(str(error))
                self._done(item.number, dropped=1)
            elif not isinstance(error, RefusedError):
                self._back_off(error)
            elif isinstance(error, UnreadableError) and not refused:
                self._finish(item.number, 0, [(str(error), item)])
            else:
                self._backlog.hold(item)
                refused.append(item)
                item_after = self._item_after(refused)
                if item_after is not None:
                    item = item_after
                    continue
                self._wait_for_next_event(str(error), len(refused))
            return
        self._retry_refused(item, refused)

    def _item_after(self, refused: Sequence[Item[QueuedEvent]]) -> Item[QueuedEvent] | None:
        if len(refused) >= REFUSED_IN_A_ROW or (place := self._backlog.take_next()) is None:
            return None
        return self._item(place)

    def _try_to_deliver(self, item: Item[QueuedEvent]) -> TwincarError | OSError | None:
        """Write an event to the sink; return the error, or None. An unexpected exception counts as a refusal."""
        try:
            self._write(item.event, item.crop_bgr)
        except (TwincarError, OSError) as error:
            return error
        except Exception as error:  # must stop neither the loop nor later events
            logger.debug("%s: unexpected error", self._failures.label, exc_info=True)
            return RefusedError(f"{type(error).__name__}: {error}")
        return None

    def _write(self, event: QueuedEvent, crop_bgr: Crop) -> None:
        if isinstance(event, Event):
            self._sink.write(event, crop_bgr)
            return
        try:
            stored = StoredEvent(event)
        except ValueError as error:
            raise UnreadableError(f"stored data is not a valid event: {error}") from error
        self._sink.write_stored(stored)

    def _retry_refused(self, accepted: Item[QueuedEvent], refused: Sequence[Item[QueuedEvent]]) -> None:
        """Retry each refused event once, after a later one was accepted; set aside those refused again."""
        aside = []
        for item in refused:
            error = self._try_to_deliver(item)
            if error is not None and not isinstance(error, RefusedError):
                self._back_off(error)
                return
            if error is not None:
                aside.append((str(error), item))
        self._finish(accepted.number, 1 + len(refused) - len(aside), aside)

    def _finish(self, through: int, delivered: int, aside: Sequence[tuple[str, Item[QueuedEvent]]]) -> None:
        """Mark all events up to `through` as finished; `delivered` of them were delivered."""
        has_spool = self._spool is not None
        outcome = "set aside; `twincar-edge events resend` sends it again" if has_spool else "dropped"
        for reason, item in aside:
            self._failures.refused(reason, f"event {outcome}", lost=not has_spool)
            if has_spool:
                self._unsaved_aside.append((reason, as_json(item.event)))
        self._save_aside()
        self._done(through, delivered=delivered, **{"aside" if has_spool else "dropped": len(aside)})
        if delivered:
            self._backoff.reset()
            self._refusing_since_s = None
            queued, _delivered, dropped = self._backlog.counts()
            self._failures.succeeded(queued, dropped)

    def _save_aside(self) -> None:
        """Write the events set aside to the spool; while that fails, keep the newest in memory."""
        if self._unsaved_aside and self._spool is not None:
            try:
                self._spool.set_aside(self._unsaved_aside)
                self._unsaved_aside.clear()
            except DatabaseError as error:
                self._spool_fails(error)
                del self._unsaved_aside[:-_MAX_UNSAVED]

    def _wait_for_next_event(self, reason: str, refused: int) -> None:
        """Back off until the next event arrives or, if the receiver refuses all events, as after any failure."""
        if self._refusing_since_s is None:
            self._refusing_since_s = self._clock()
        refuses_all = refused >= REFUSED_IN_A_ROW
        report = refuses_all or self._clock() - self._refusing_since_s >= _REPORT_AFTER_S
        self._failures.failed(reason, report=report)
        self._backlog.requeue_failed()
        self._backlog.pause(self._backoff.next_s(), until_event=not refuses_all)

    def _back_off(self, error: TwincarError | OSError) -> None:
        """Requeue the events, and wait before the next attempt."""
        self._failures.failed(str(error))
        retry_after_s = _retry_after_s(error)
        self._backlog.requeue_failed()
        self._backlog.pause(max(self._backoff.next_s(), retry_after_s), retry_after_s=retry_after_s)

    def _reader_closed(self) -> None:
        self._failures.problem = "reader closed the stream"
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
            self._failures.tended(None)
        except (TwincarError, OSError) as error:
            self._failures.tended(str(error))

    # -- Resending events that were set aside

    def _take_timeout_s(self) -> float:
        """Return how long to wait for an event before checking for a resend request and for periodic work."""
        if self._resend is None:
            return self._sink.tend_s
        return 0.0 if self._resend.active else min(POLL_S, self._sink.tend_s)

    def _resend_one(self) -> None:
        """Send the next event of a resend request, if there is one."""
        if self._resend is None:
            return
        try:
            entry = self._resend.next()
            if entry is None:
                return
            number, text = entry
            error = self._try_to_deliver(Item(number, text, NO_CROP, self._clock()))
            if error is None:
                self._resend.delivered(number)
                queued, _delivered, dropped = self._backlog.counts()
                self._failures.succeeded(queued, dropped)
            elif isinstance(error, RefusedError):
                self._resend.refused(number)
            else:
                self._failures.failed(str(error))
                # Unlike `_back_off`, end the pause at closing: there may be no event to wait for.
                self._backlog.pause(max(self._backoff.next_s(), _retry_after_s(error)))
        except DatabaseError as error:
            self._spool_fails(error)
            self._backlog.pause(self._backoff.next_s())


def _retry_after_s(error: TwincarError | OSError) -> float:
    """Return for how long the receiver asked to wait; 0 if it did not."""
    return error.retry_after_s or 0.0 if isinstance(error, DeliveryError) else 0.0
