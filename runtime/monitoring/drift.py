"""Drift of a camera's answers: the last hour compared with the week before, in constant memory."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import UNKNOWN

_BUCKET_S = 600.0
_RECENT_BUCKETS = 6  # plus the current one
_BASELINE_BUCKETS = 7 * 24 * 6
RECENT, BASELINE = "1h", "7d"


@dataclass(frozen=True)
class AnswerWindow:
    """Statistics of a camera's visits that ended in a window; a mean is None if no visit has a value."""

    visits: int
    unknown_share: float | None
    familiarity_mean: float | None
    probability_mean: float | None


@dataclass
class _Tally:
    bucket: int = 0
    visits: int = 0
    unknown: int = 0
    probability: float = 0.0
    familiar: int = 0  # visits with a familiarity
    familiarity: float = 0.0

    def add(self, event: Event) -> None:
        self.visits += 1
        self.unknown += event.level == UNKNOWN
        self.probability += event.probability
        if event.familiarity is not None:
            self.familiar += 1
            self.familiarity += event.familiarity

    def merge(self, other: _Tally) -> None:
        self.visits += other.visits
        self.unknown += other.unknown
        self.probability += other.probability
        self.familiar += other.familiar
        self.familiarity += other.familiarity

    def window(self) -> AnswerWindow:
        return AnswerWindow(
            visits=self.visits,
            unknown_share=_mean(self.unknown, self.visits),
            familiarity_mean=_mean(self.familiarity, self.familiar),
            probability_mean=_mean(self.probability, self.visits),
        )


@dataclass
class AnswerWindows:
    """Tallies of ended visits by camera, in buckets of ten minutes. One thread adds; any thread may read.

    Times are monotonic seconds.
    """

    _buckets: dict[str, deque[_Tally]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, event: Event, now_s: float) -> None:
        """Add a visit's `end` event."""
        bucket = int(now_s // _BUCKET_S)
        with self._lock:
            tallies = self._buckets.setdefault(event.camera, deque(maxlen=_RECENT_BUCKETS + 1 + _BASELINE_BUCKETS))
            if not tallies or tallies[-1].bucket != bucket:
                tallies.append(_Tally(bucket))
            tallies[-1].add(event)

    def clear(self) -> None:
        """Remove all visits: the answers of a new model are not comparable."""
        with self._lock:
            self._buckets.clear()

    def windows(self, now_s: float) -> dict[tuple[str, str], AnswerWindow]:
        """Return the statistics by camera and window: `RECENT`, 60 to 70 minutes, or `BASELINE`, the 7 days before."""
        newest = int(now_s // _BUCKET_S)
        found = {}
        with self._lock:
            for camera, tallies in self._buckets.items():
                recent, baseline = _Tally(), _Tally()
                for tally in tallies:
                    age = newest - tally.bucket
                    if age <= _RECENT_BUCKETS:
                        recent.merge(tally)
                    elif age <= _RECENT_BUCKETS + _BASELINE_BUCKETS:
                        baseline.merge(tally)
                found[camera, RECENT] = recent.window()
                found[camera, BASELINE] = baseline.window()
        return found


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
