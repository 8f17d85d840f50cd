"""The queue of a delivery: tracks each undelivered event, in memory or on disk, under one lock.

Events are numbered. Those up to `_done_through` are finished. Of the rest, those up to `_persisted_through` are on
disk, the others in memory. The sender holds one event, or several while it finds out whether the receiver refuses one
event or all. The lock is never held during disk or network I/O, so `put` never waits for either.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic

from twincar_edge.runtime.sinks.base import NO_CROP, Crop
from twincar_edge.runtime.sinks.queue_ages import QueueAges
from twincar_edge.runtime.sinks.queued import E, Idle, Item, OnDisk

DRAIN_S = 5.0
_WRITE_S = 1.0  # within which a disk that works has written a batch
_POLL_S = 0.1  # a threading.Event cannot wake a condition, so waits for both poll the event


class Backlog(Generic[E]):
    """The queue between the loop (`put`), the sender (`take`) and the writer, which persists events that wait."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        """Hold at most `limit` events in memory; `clock` returns monotonic seconds."""
        self._limit = limit
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Item[E]] = deque()
        self._taken: list[Item[E]] = []  # held by the sender
        self._next_number = 1
        self._done_through = 0
        self._persisted_through = 0
        self._writing_through = 0
        self._writing_from = math.inf  # the first event of the batch that is being written
        self._write_due_s = math.inf
        self._dropped_during_write = 0
        self._failing = False
        self._readable = True
        self._closing = False
        self._sender_ended = False
        self._deadline_s: float | None = None
        self._delivered = 0
        self._dropped = 0
        self._aside = 0
        self._ages = QueueAges()

    def resume(self, last_number: int) -> None:
        """Continue after `last_number`, the last event on disk. Call before the threads start."""
        self._persisted_through = last_number
        self._next_number = last_number + 1
        if last_number:
            self._ages.note(last_number, self._clock(), was_empty=True)

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of events in memory, delivered and dropped."""
        with self._changed:
            return len(self._in_memory()), self._delivered, self._dropped

    def in_memory(self) -> list[int]:
        """Return the numbers of the events that are neither finished nor on disk."""
        with self._changed:
            return [item.number for item in self._in_memory()]

    def oldest_s(self) -> float:
        """Return how long the oldest event has waited, accurate to some seconds.

        Events of an earlier run count from the start of this run.
        """
        with self._changed:
            if self._done_through == self._next_number - 1:
                return 0.0
            return self._ages.oldest_s(self._done_through + 1, self._clock())

    def put(self, event: E, crop_bgr: Crop = NO_CROP, *, wait_until: threading.Event | None = None) -> None:
        """Add an event. If the queue is full, drop the oldest.

        With `wait_until`, first wait for room, until the queue closes or `wait_until` is set.
        """
        with self._changed:
            while wait_until is not None and len(self._waiting) >= self._limit:
                if self._closing or wait_until.is_set():
                    break
                self._changed.wait(_POLL_S)
            if self._closing:
                self._dropped += 1
                return
            if len(self._waiting) >= self._limit:
                if self._waiting.popleft().number <= self._writing_through:
                    self._dropped_during_write += 1  # lost only if the write fails
                else:
                    self._dropped += 1
            now_s = self._clock()
            self._ages.note(self._next_number, now_s, was_empty=self._done_through == self._next_number - 1)
            self._waiting.append(Item(self._next_number, event, crop_bgr, now_s))
            self._next_number += 1
            self._changed.notify_all()

    # -- For the sender

    def take(self, idle_s: float | None = None) -> Item[E] | OnDisk | Idle | None:
        """Wait for the oldest unfinished event. Return it, `OnDisk`, `Idle` after `idle_s`, or None at the end.

        An event may be delivered while it is being written to disk. The next one then waits until it is removed from
        there, unless the disk hangs: after a kill in between, it would be repeated after its successors.
        """
        with self._changed:
            idle_at_s = None if idle_s is None else self._clock() + idle_s
            while True:
                if self._closing and self._deadline_s is not None and self._clock() >= self._deadline_s:
                    return None
                if self._done_through >= self._writing_from and (wait_s := self._write_due_s - self._clock()) > 0:
                    self._changed.wait(min(wait_s, _POLL_S))
                    continue
                if (found := self._next()) is not None:
                    return found
                if self._closing:
                    return None
                remaining_s = None if idle_at_s is None else idle_at_s - self._clock()
                if remaining_s is not None and remaining_s <= 0:
                    return Idle()
                self._changed.wait(remaining_s)

    def take_next(self) -> Item[E] | OnDisk | None:
        """Return the event after those that the sender holds, `OnDisk`, or None if there is none. Does not wait."""
        with self._changed:
            return self._next()

    def _next(self) -> Item[E] | OnDisk | None:
        after = self._taken[-1].number if self._taken else self._done_through
        if after < self._persisted_through:
            return OnDisk(after, self._persisted_through)
        if not self._waiting:
            return None
        self._taken.append(self._waiting.popleft())
        self._changed.notify_all()  # there is room
        return self._taken[-1]

    def set_disk_readable(self, *, readable: bool) -> None:
        """Set whether the spool is readable. While it is not, events stay in memory until closing."""
        with self._changed:
            self._readable = readable
            self._changed.notify_all()

    def skip(self, place: OnDisk) -> None:
        """Skip the events of `place`: they are missing, as after damage, or unreadable."""
        with self._changed:
            if not self._taken:
                self._done_through = max(self._done_through, place.through)

    def hold(self, item: Item[E]) -> None:
        """Leave a refused event with the sender; `take_next` continues after it."""
        with self._changed:
            if item not in self._taken:  # read from disk
                self._taken.append(item)

    def done(self, number: int, *, delivered: int = 0, dropped: int = 0, aside: int = 0) -> bool:
        """Mark all events up to `number` as finished; return whether the spool has to remove them."""
        with self._changed:
            self._delivered += delivered
            self._dropped += dropped
            self._aside += aside
            self._failing = self._failing and not delivered
            self._taken = [item for item in self._taken if item.number > number]
            self._done_through = max(self._done_through, number)
            return number <= self._persisted_through

    def requeue(self) -> None:
        """Return the sender's events to the front of the queue."""
        with self._changed:
            self._waiting.extendleft(item for item in reversed(self._taken) if item.number > self._persisted_through)
            self._taken.clear()

    def requeue_failed(self) -> None:
        """Requeue after a failed attempt. While closing, this ends the sender."""
        self.requeue()
        with self._changed:
            self._failing = True
            self._changed.notify_all()
        self.end_drain()

    def end_drain(self) -> None:
        """While closing, allow no further attempt."""
        with self._changed:
            if self._closing:
                self._deadline_s = self._clock()

    def pause(self, seconds: float, *, until_event: bool = False, retry_after_s: float = 0.0) -> None:
        """Wait for `seconds`, until closing or, with `until_event`, until the next event.

        `retry_after_s`, which a receiver asked for, is waited for even while closing, within the deadline.
        """
        with self._changed:
            newest, retry_at_s = self._next_number, self._clock() + retry_after_s
            self._changed.wait_for(lambda: self._closing or (until_event and self._next_number != newest), seconds)
            while self._clock() < min(retry_at_s, math.inf if self._deadline_s is None else self._deadline_s):
                self._changed.wait(min(_POLL_S, retry_after_s))

    def discard(self) -> None:
        """Drop everything in memory and close: the reader closed the stream."""
        with self._changed:
            self._closing = True
            self._deadline_s = self._clock()
            self._drop_all()
            self._changed.notify_all()

    # -- For the writer

    def next_batch(self, persist_after_s: float) -> list[Item[E]] | None:
        """Wait until events have to be persisted and return all that are in memory; None at the end.

        Events are persisted after `persist_after_s`, when delivery fails, when the queue is half full, and at closing.
        While the spool cannot be read, they are persisted only at closing.
        """
        with self._changed:
            while True:
                items = self._in_memory()
                wait_s = None
                if items and (self._readable or self._closing):
                    wait_s = items[0].queued_at_s + persist_after_s - self._clock()
                    urgent = self._closing or self._failing or 2 * len(self._waiting) >= self._limit
                    if urgent or wait_s <= 0:
                        self._writing_from, self._writing_through = items[0].number, items[-1].number
                        self._write_due_s = self._clock() + _WRITE_S
                        return items
                elif self._sender_ended and not items:
                    return None
                self._changed.wait(wait_s)

    def persisted(self, batch: list[Item[E]], displaced: int) -> int:
        """Mark a batch as persisted; `displaced` older events were dropped for it. Return the last finished number."""
        with self._changed:
            self._writing_through = self._dropped_during_write = 0
            self._dropped += displaced
            self._persisted_through = batch[-1].number
            while self._waiting and self._waiting[0].number <= self._persisted_through:
                self._waiting.popleft()
            self._changed.notify_all()
            return self._done_through

    def write_ended(self) -> None:
        """Record that no event of the batch is on disk that was delivered meanwhile."""
        with self._changed:
            self._writing_from = math.inf
            self._changed.notify_all()

    def persist_failed(self, retry_s: float) -> bool:
        """Record that the batch could not be written, wait for `retry_s`, and return whether to retry."""
        with self._changed:
            self._writing_from = math.inf
            self._dropped += self._dropped_during_write
            self._writing_through = self._dropped_during_write = 0
            if self._sender_ended:
                return False
            self._changed.wait_for(lambda: self._sender_ended, retry_s)
            return True

    def all_delivered(self) -> bool:
        """Return whether every event was delivered, including those of earlier runs."""
        with self._changed:
            return not self._dropped + self._aside and self._done_through == self._next_number - 1

    # -- For the owner

    def is_open(self) -> bool:
        """Return whether the queue still accepts events."""
        with self._changed:
            return not self._closing

    def stop(self, drain_s: float | None) -> None:
        """Reject new events; let the sender drain the queue for at most `drain_s`, or without a limit if None."""
        with self._changed:
            if not self._closing:
                self._closing = True
                self._deadline_s = None if drain_s is None else self._clock() + drain_s
                self._changed.notify_all()

    def join(self, sender: threading.Thread, stop: threading.Event) -> None:
        """While closing, wait for the sender's thread, but at most `DRAIN_S` once `stop` is set."""
        while sender.is_alive() and (remaining_s := self._remaining_s(stop)) > 0:
            sender.join(min(remaining_s, _POLL_S))

    def _remaining_s(self, stop: threading.Event) -> float:
        with self._changed:
            if self._deadline_s is None and stop.is_set():
                self._deadline_s = self._clock() + DRAIN_S
            return math.inf if self._deadline_s is None else self._deadline_s - self._clock()

    def sender_ended(self) -> None:
        """Record that the sender has ended: the writer persists the rest and ends."""
        with self._changed:
            self._sender_ended = True
            self._changed.notify_all()

    def drop_rest(self) -> int:
        """Drop the events that are in memory only; return how many."""
        with self._changed:
            return self._drop_all()

    def _drop_all(self) -> int:
        lost = len(self._in_memory())
        self._dropped += lost
        self._waiting.clear()
        self._taken.clear()
        return lost

    def _in_memory(self) -> list[Item[E]]:
        """Return the events that are not on disk."""
        return [item for item in self._taken if item.number > self._persisted_through] + list(self._waiting)
