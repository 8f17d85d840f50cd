"""The events that a sink has not taken yet: where each of them is, in one place, under one lock.

Each event has a number. All up to `done_through` are dealt with; of the others, those up to `kept_through` are on disk,
and the rest are in memory, one of them perhaps in flight. The lock is never held while something is written or sent,
so that nobody waits for a disk or a network to put an event in.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from twincar_edge.runtime.sinks.base import NO_CROP, Crop

E = TypeVar("E")  # an event, or what else a queue is for

DRAIN_S = 5.0
_LOOK_S = 0.1  # how often who waits looks whether the run is to stop: nobody is told when an event of threading is set


@dataclass(frozen=True, eq=False)
class Item(Generic[E]):
    """An event with its number, and since when it waits."""

    number: int
    event: E
    crop_bgr: Crop
    since_s: float


class Backlog(Generic[E]):
    """The queue between the loop, which puts, a sender, which takes, and a keeper, which writes to disk."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        """Hold at most `limit` events in memory; `clock` gives seconds that only rise."""
        self._limit = limit
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Item[E]] = deque()
        self._in_flight: Item[E] | None = None
        self._next_number = 1
        self._done_through = 0
        self._kept_through = 0
        self._keeping_through = 0
        self._overtaken = 0
        self._failing = False
        self._closing = False
        self._sent_all = False
        self._deadline_s: float | None = None
        self._delivered = 0
        self._dropped = 0

    def resume(self, last_number: int) -> None:
        """Begin behind what waits on disk, up to `last_number`. Called before the threads start."""
        self._kept_through = last_number
        self._next_number = last_number + 1

    def counts(self) -> tuple[int, int, int]:
        """Return how many events are in memory, were delivered, and were dropped."""
        with self._changed:
            return len(self._waiting) + (self._in_flight is not None), self._delivered, self._dropped

    def put(self, event: E, crop_bgr: Crop = NO_CROP, *, wait_until: threading.Event | None = None) -> None:
        """Add an event; where there is no room, the oldest in memory goes, and counts as dropped.

        With `wait_until`, wait for room first: until there is some, the queue closes, or that event is set.
        """
        with self._changed:
            while wait_until is not None and len(self._waiting) >= self._limit:
                if self._closing or wait_until.is_set():
                    break
                self._changed.wait(_LOOK_S)
            if self._closing:
                self._dropped += 1
                return
            if len(self._waiting) >= self._limit:
                oldest = self._waiting.popleft()
                if oldest.number <= self._keeping_through:
                    self._overtaken += 1  # it is being written to disk: whether it is lost shows when that is over
                else:
                    self._dropped += 1
            self._waiting.append(Item(self._next_number, event, crop_bgr, self._clock()))
            self._next_number += 1
            self._changed.notify_all()

    # -- For the sender

    def take(self) -> Item[E] | tuple[int, int] | None:
        """Wait for the oldest event that is not dealt with: it, or where it is on disk, or None at the end.

        Where it is on disk: behind the first number and not behind the second.
        """
        with self._changed:
            while True:
                if self._closing and self._deadline_s is not None and self._clock() >= self._deadline_s:
                    return None
                if self._done_through < self._kept_through:
                    return self._done_through, self._kept_through
                if self._waiting:
                    self._in_flight = self._waiting.popleft()
                    self._changed.notify_all()  # there is room
                    return self._in_flight
                if self._closing:
                    return None
                self._changed.wait()

    def done(self, number: int, *, delivered: int = 0, dropped: int = 0) -> bool:
        """Note that an event, and all before it, is dealt with; return whether it is on disk, to be removed."""
        with self._changed:
            self._delivered += delivered
            self._dropped += dropped
            self._failing = self._failing and not delivered
            self._in_flight = None
            self._done_through = max(self._done_through, number)
            return number <= self._kept_through

    def give_back(self, item: Item[E]) -> None:
        """Take back an event that could not be delivered, ahead of all others. At closing this ends the sending."""
        with self._changed:
            self._in_flight = None
            self._failing = True
            if item.number > self._kept_through:
                self._waiting.appendleft(item)
            self._changed.notify_all()
        self.give_up_closing()

    def give_up_closing(self) -> None:
        """At closing, there is no time for another attempt."""
        with self._changed:
            if self._closing:
                self._deadline_s = self._clock()

    def pause(self, seconds: float) -> None:
        """Wait between attempts, but no longer than until closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def discard(self) -> None:
        """Drop all that is in memory, and end: nobody will ever take it."""
        with self._changed:
            self._closing = True
            self._deadline_s = self._clock()
            self._drop_all()
            self._changed.notify_all()

    # -- For the keeper

    def overdue(self, keep_after_s: float) -> list[Item[E]] | None:
        """Wait for events that are not on disk and ought to be, and return all that are not; None at the end.

        They ought to be after `keep_after_s`, when delivery fails, when memory fills up, and at closing.
        """
        with self._changed:
            while True:
                unkept = self._unkept()
                wait_s = None
                if unkept:
                    wait_s = unkept[0].since_s + keep_after_s - self._clock()
                    hurry = self._closing or self._failing or 2 * len(self._waiting) >= self._limit
                    if hurry or wait_s <= 0:
                        self._keeping_through = unkept[-1].number
                        return unkept
                elif self._sent_all:
                    return None
                self._changed.wait(wait_s)

    def kept(self, batch: list[Item[E]], displaced: int) -> int:
        """Note that a batch is on disk, where so many older events made room; return what is dealt with by now."""
        with self._changed:
            self._overtaken = self._keeping_through = 0
            self._dropped += displaced
            self._kept_through = batch[-1].number
            while self._waiting and self._waiting[0].number <= self._kept_through:
                self._waiting.popleft()
            self._changed.notify_all()
            return self._done_through

    def not_kept(self, retry_s: float) -> bool:
        """Note that a batch could not be written, wait, and return whether to try again."""
        with self._changed:
            self._dropped += self._overtaken
            self._overtaken = self._keeping_through = 0
            if self._sent_all:
                return False
            self._changed.wait_for(lambda: self._sent_all, retry_s)
            return True

    # -- For the owner

    def stop(self, drain_s: float | None) -> None:
        """Take no more events, and let the sender go on for `drain_s` at most."""
        with self._changed:
            if not self._closing:
                self._closing = True
                self._deadline_s = None if drain_s is None else self._clock() + drain_s
                self._changed.notify_all()

    def join(self, sender: threading.Thread, hurry: threading.Event) -> None:
        """While closing, wait for the sender's thread, as long as it may go on; for `DRAIN_S` once `hurry` is set."""
        while sender.is_alive() and (left_s := self._left_s(hurry)) > 0:
            sender.join(min(left_s, _LOOK_S))

    def _left_s(self, hurry: threading.Event) -> float:
        with self._changed:
            if self._deadline_s is None and hurry.is_set():
                self._deadline_s = self._clock() + DRAIN_S
            return math.inf if self._deadline_s is None else self._deadline_s - self._clock()

    def sent_all(self) -> None:
        """Note that the sender will take no more: the keeper writes the rest, and ends."""
        with self._changed:
            self._sent_all = True
            self._changed.notify_all()

    def lose_rest(self) -> int:
        """Drop what is in memory only, at the end, and return how many events those are."""
        with self._changed:
            return self._drop_all()

    def _drop_all(self) -> int:
        lost = len(self._unkept())
        self._dropped += lost
        self._waiting.clear()
        self._in_flight = None
        return lost

    def _unkept(self) -> list[Item[E]]:
        flying = [self._in_flight] if self._in_flight and self._in_flight.number > self._kept_through else []
        return flying + list(self._waiting)
