"""The events that a sink has not taken yet: where each of them is, in one place, under one lock.

Each event has a number. All up to `_done_through` are dealt with; of the others, those up to `_persisted_through` are
on disk, and the rest are in memory. The sender has taken one of them, or a few where the receiver refused the first.
The lock is never held while something is written or sent, so that `put` waits for neither a disk nor a network.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from twincar_edge.runtime.sinks.base import NO_CROP, Crop

E = TypeVar("E")  # an event, or a clip

DRAIN_S = 5.0
_AGE_STEP_S = 5.0
_MOST_AGES = 10_000
_POLL_S = 0.1  # a threading.Event cannot wake a condition, so waits that depend on one poll it


@dataclass(frozen=True, eq=False)
class Item(Generic[E]):
    """An event in memory: its number, its picture, and when it was put."""

    number: int
    event: E
    crop_bgr: Crop
    since_s: float


@dataclass(frozen=True)
class OnDisk:
    """Says that the next event is on disk: the first with a number above `after` and up to `through`."""

    after: int
    through: int


@dataclass(frozen=True)
class Idle:
    """Says that nothing has come for a while."""


class Backlog(Generic[E]):
    """The queue between the loop, which puts, a sender, which takes, and a writer, which persists what has to wait."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        """Hold at most `limit` events in memory; `clock` returns monotonic seconds."""
        self._limit = limit
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Item[E]] = deque()
        self._taken: list[Item[E]] = []  # in the sender's hands
        self._next_number = 1
        self._done_through = 0
        self._persisted_through = 0
        self._writing_through = 0
        self._replaced_while_written = 0
        self._failing = False
        self._readable = True
        self._closing = False
        self._sender_ended = False
        self._deadline_s: float | None = None
        self._delivered = 0
        self._dropped = 0
        self._aside = 0
        self._ages: deque[tuple[int, float]] = deque()  # numbers, some seconds apart, and when they were put

    def resume(self, last_number: int) -> None:
        """Number new events above those that wait on disk, up to `last_number`. Called before the threads start."""
        self._persisted_through = last_number
        self._next_number = last_number + 1
        if last_number:
            self._ages.append((last_number, self._clock()))

    def counts(self) -> tuple[int, int, int]:
        """Return how many events are in memory, were delivered, and were dropped."""
        with self._changed:
            return len(self._in_memory()), self._delivered, self._dropped

    def oldest_s(self) -> float:
        """Return for how long the oldest event has waited, right to some seconds.

        One of an earlier run counts from the start.
        """
        with self._changed:
            if self._done_through == self._next_number - 1:
                return 0.0
            while len(self._ages) > 1 and self._ages[1][0] <= self._done_through + 1:
                self._ages.popleft()
            return self._clock() - self._ages[0][1]

    def put(self, event: E, crop_bgr: Crop = NO_CROP, *, wait_until: threading.Event | None = None) -> None:
        """Add an event. In a full queue it replaces the oldest, which counts as dropped.

        With `wait_until`, wait for room first: until there is some, the queue closes, or that event is set.
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
                oldest = self._waiting.popleft()
                if oldest.number <= self._writing_through:
                    self._replaced_while_written += 1  # lost only if the write fails
                else:
                    self._dropped += 1
            now_s = self._clock()
            self._note_age(now_s)
            self._waiting.append(Item(self._next_number, event, crop_bgr, now_s))
            self._next_number += 1
            self._changed.notify_all()

    def _note_age(self, now_s: float) -> None:
        """Remember when an event was put, if it is the first that waits, or some seconds after the last noted one."""
        if self._done_through == self._next_number - 1:
            self._ages.clear()
        if not self._ages or (now_s - self._ages[-1][1] >= _AGE_STEP_S and len(self._ages) < _MOST_AGES):
            self._ages.append((self._next_number, now_s))

    # -- For the sender

    def take(self, idle_s: float | None = None) -> Item[E] | OnDisk | Idle | None:
        """Wait for the oldest event that is not dealt with; return it, or that it is on disk, or None at the end.

        Where none has come for `idle_s`, return `Idle`.
        """
        with self._changed:
            idle_at_s = None if idle_s is None else self._clock() + idle_s
            while True:
                if self._closing and self._deadline_s is not None and self._clock() >= self._deadline_s:
                    return None
                if (found := self._next()) is not None:
                    return found
                if self._closing:
                    return None
                left_s = None if idle_at_s is None else idle_at_s - self._clock()
                if left_s is not None and left_s <= 0:
                    return Idle()
                self._changed.wait(left_s)

    def take_next(self) -> Item[E] | OnDisk | None:
        """Return the event behind those that the sender holds, or that it is on disk, or None if there is none."""
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

    def note_disk(self, *, readable: bool) -> None:
        """Note whether what is on disk can be read: while it cannot, events stay in memory until closing."""
        with self._changed:
            self._readable = readable
            self._changed.notify_all()

    def skip(self, place: OnDisk) -> None:
        """Go on behind a place on disk: nothing is there, as after damage, or it cannot be read."""
        with self._changed:
            if not self._taken:
                self._done_through = max(self._done_through, place.through)

    def hold(self, item: Item[E]) -> None:
        """Keep an event with the sender, undecided; `take_next` continues after it."""
        with self._changed:
            if item not in self._taken:  # it was read from the disk
                self._taken.append(item)

    def done(self, number: int, *, delivered: int = 0, dropped: int = 0, aside: int = 0) -> bool:
        """Note that an event, and all before it, is dealt with; return whether it has to be removed from the disk."""
        with self._changed:
            self._delivered += delivered
            self._dropped += dropped
            self._aside += aside
            self._failing = self._failing and not delivered
            self._taken = [item for item in self._taken if item.number > number]
            self._done_through = max(self._done_through, number)
            return number <= self._persisted_through

    def reclaim(self) -> None:
        """Put what the sender holds back in front: it begins anew."""
        with self._changed:
            self._waiting.extendleft(item for item in reversed(self._taken) if item.number > self._persisted_through)
            self._taken.clear()

    def give_back(self) -> None:
        """Put what the sender holds, undelivered, back in front. At closing this ends the sending."""
        self.reclaim()
        with self._changed:
            self._failing = True
            self._changed.notify_all()
        self.give_up_closing()

    def give_up_closing(self) -> None:
        """At closing, make no further attempt."""
        with self._changed:
            if self._closing:
                self._deadline_s = self._clock()

    def pause(self, seconds: float, *, or_news: bool = False, asked_s: float = 0.0) -> None:
        """Wait until closing or, with `or_news`, the next event; `asked_s` by the receiver at closing too."""
        with self._changed:
            newest, asked_until_s = self._next_number, self._clock() + asked_s
            self._changed.wait_for(lambda: self._closing or (or_news and self._next_number != newest), seconds)
            while self._clock() < min(asked_until_s, math.inf if self._deadline_s is None else self._deadline_s):
                self._changed.wait(min(_POLL_S, asked_s))

    def discard(self) -> None:
        """Drop everything in memory and end: the reader has gone for good."""
        with self._changed:
            self._closing = True
            self._deadline_s = self._clock()
            self._drop_all()
            self._changed.notify_all()

    # -- For the writer

    def overdue(self, persist_after_s: float) -> list[Item[E]] | None:
        """Wait for events that ought to be on disk, and return all that are not; None at the end.

        Events ought to be on disk after `persist_after_s`, when delivery fails, when memory fills up, and at closing;
        at closing only while the disk cannot be read.
        """
        with self._changed:
            while True:
                items = self._in_memory()
                wait_s = None
                if items and (self._readable or self._closing):
                    wait_s = items[0].since_s + persist_after_s - self._clock()
                    hurry = self._closing or self._failing or 2 * len(self._waiting) >= self._limit
                    if hurry or wait_s <= 0:
                        self._writing_through = items[-1].number
                        return items
                elif self._sender_ended and not items:
                    return None
                self._changed.wait(wait_s)

    def persisted(self, batch: list[Item[E]], displaced: int) -> int:
        """Note that a batch is on disk and displaced so many older events; return the number of the last one done."""
        with self._changed:
            self._writing_through = self._replaced_while_written = 0
            self._dropped += displaced
            self._persisted_through = batch[-1].number
            while self._waiting and self._waiting[0].number <= self._persisted_through:
                self._waiting.popleft()
            self._changed.notify_all()
            return self._done_through

    def not_persisted(self, retry_s: float) -> bool:
        """Note that the batch could not be written, wait, and return whether to try again."""
        with self._changed:
            self._dropped += self._replaced_while_written
            self._writing_through = self._replaced_while_written = 0
            if self._sender_ended:
                return False
            self._changed.wait_for(lambda: self._sender_ended, retry_s)
            return True

    def all_delivered(self) -> bool:
        """Return whether every event so far was delivered, those of earlier runs that waited on disk included."""
        with self._changed:
            return not self._dropped + self._aside and self._done_through == self._next_number - 1

    # -- For the owner

    def is_open(self) -> bool:
        """Return whether it still takes events."""
        with self._changed:
            return not self._closing

    def stop(self, drain_s: float | None) -> None:
        """Take no more events; let the sender go on for at most `drain_s`, or until the queue is empty."""
        with self._changed:
            if not self._closing:
                self._closing = True
                self._deadline_s = None if drain_s is None else self._clock() + drain_s
                self._changed.notify_all()

    def join(self, sender: threading.Thread, hurry: threading.Event) -> None:
        """While closing, wait for the sender's thread, but no longer than `DRAIN_S` once `hurry` is set."""
        while sender.is_alive() and (left_s := self._left_s(hurry)) > 0:
            sender.join(min(left_s, _POLL_S))

    def _left_s(self, hurry: threading.Event) -> float:
        with self._changed:
            if self._deadline_s is None and hurry.is_set():
                self._deadline_s = self._clock() + DRAIN_S
            return math.inf if self._deadline_s is None else self._deadline_s - self._clock()

    def sender_ended(self) -> None:
        """Note that the sender takes no more events: the writer persists the rest and ends."""
        with self._changed:
            self._sender_ended = True
            self._changed.notify_all()

    def drop_rest(self) -> int:
        """Drop at the end what is in memory only, and return how many events those are."""
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
