"""Detects drift: compares a camera's newest days in the store with the two weeks before."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from twincar_edge.errors import TwincarError
from twincar_edge.metrics import wilson_interval
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import UNKNOWN
from twincar_edge.runtime.selftest.diagnosis import Check
from twincar_edge.runtime.sinks.store import EventFilter, query, read_events

MIN_VISITS = 100  # in each period; with fewer, a change by a tenth is not significant
MAX_RECENT_DAYS, DAYS_BEFORE = 7, 14
# The smallest changes that justify checking the camera: one visit in ten more that ends as "unknown", or a mean
# familiarity that is lower by half a standard deviation, Cohen's medium effect.
MIN_SHARE = 0.1
MIN_DEVIATIONS = 0.5
_Z_99 = 2.5758293035489004  # the normal distribution's 99.5% point, for a 99% interval
_DAY = timedelta(days=1)


@dataclass
class _Values:
    """The count, the sum and the sum of squares of values."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.squares += value * value

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        return max(self.squares / self.count - self.mean**2, 0.0) if self.count else 0.0


@dataclass
class _Day:
    unknown: _Values = field(default_factory=_Values)
    familiarity: _Values = field(default_factory=_Values)

    def add(self, event: Event) -> None:
        self.unknown.add(float(event.level == UNKNOWN))
        if event.familiarity is not None:
            self.familiarity.add(event.familiarity)


def check_drift(store: Path, now: datetime) -> list[Check]:
    """Compare each camera's newest visits with earlier ones of the same model; return one check per camera.

    Args:
        store: the store of visits.
        now: later visits are ignored; they come from a wrong clock.
    """
    name = "visits"
    try:
        newest = query(store, EventFilter(until=now, limit=1))
        if not newest:
            return [Check(name=name, status="ok", found=f"the store {store} has none")]
        end = newest[0].started_at
        since = end - (MAX_RECENT_DAYS + DAYS_BEFORE) * _DAY
        by_camera = _by_day(read_events(store, EventFilter(since=since, until=now)), end)
    except TwincarError as error:
        return [Check(name=name, status="fail", found=str(error))]
    return [_check(f"{name} of {camera}", days) for camera, days in sorted(by_camera.items())]


def _by_day(events: Iterable[Event], end: datetime) -> dict[str, dict[int, _Day]]:
    """Return the ended visits by camera and age in days, since the last change of each camera's model."""
    found: dict[str, dict[int, _Day]] = {}
    models: dict[str, str] = {}
    for event in events:  # oldest first
        if event.type != "end":
            continue
        if models.get(event.camera) != event.classifier.sha256:
            models[event.camera] = event.classifier.sha256
            found[event.camera] = defaultdict(_Day)
        found[event.camera][(end - event.started_at) // _DAY].add(event)
    return found


def _check(name: str, days: dict[int, _Day]) -> Check:
    recent_days = 1
    while recent_days < MAX_RECENT_DAYS and _visits(days, 0, recent_days) < MIN_VISITS:
        recent_days += 1
    recent = [days[age] for age in range(recent_days) if age in days]
    before = [days[age] for age in range(recent_days, recent_days + DAYS_BEFORE) if age in days]
    visits = sum(day.unknown.count for day in recent), sum(day.unknown.count for day in before)
    last = "24 h" if recent_days == 1 else f"{recent_days} days"
    if min(visits) < MIN_VISITS:
        found = (
            f"{visits[0]} in the last {last}, {visits[1]} in the {DAYS_BEFORE} days before, by the same model: too few "
            f"to compare, each period needs {MIN_VISITS}"
        )
        return Check(name=name, status="ok", found=found)
    unknown = _Change.of([day.unknown for day in before], [day.unknown for day in recent])
    familiarity = _Change.of([day.familiarity for day in before], [day.familiarity for day in recent])
    low, _ = unknown.share_interval()
    worse = low > 0 and unknown.difference >= MIN_SHARE
    found = (
        f"{unknown.recent.mean:.0%} of {visits[0]} unknown in the last {last}, {unknown.before.mean:.0%} of "
        f"{visits[1]} in the {DAYS_BEFORE} days before"
    )
    if min(familiarity.before.count, familiarity.recent.count) >= MIN_VISITS:
        _, high = familiarity.mean_interval()
        smallest = MIN_DEVIATIONS * math.sqrt(familiarity.before.variance)
        worse |= high < 0 and -familiarity.difference >= smallest
        found += f"; mean familiarity {familiarity.recent.mean:.3f}, before {familiarity.before.mean:.3f}"
    if not worse:
        return Check(name=name, status="ok", found=f"{found}: no drift")
    advice = "check its picture: was the camera moved, is the lens dirty, has the light or the traffic changed?"
    return Check(name=name, status="warn", found=found, advice=advice)


def _visits(days: dict[int, _Day], start: int, stop: int) -> int:
    return sum(days[age].unknown.count for age in range(start, stop) if age in days)


@dataclass(frozen=True)
class _Change:
    """The values of two periods, and the dispersion between days relative to chance, at least 1.

    The dispersion is Pearson's statistic of the days before, divided by its degrees of freedom (McCullagh and Nelder,
    Generalized Linear Models, 1989, 4.5). It reduces the effective number of values, because the values of one day are
    correlated.
    """

    before: _Values
    recent: _Values
    dispersion: float

    @classmethod
    def of(cls, before: Sequence[_Values], recent: Sequence[_Values]) -> _Change:
        all_before = _sum(before)
        statistic = sum(day.count * (day.mean - all_before.mean) ** 2 for day in before)
        dispersion = 1.0
        if len(before) > 1 and all_before.variance:
            dispersion = max(1.0, statistic / ((len(before) - 1) * all_before.variance))
        return cls(all_before, _sum(recent), dispersion)

    @property
    def difference(self) -> float:
        return self.recent.mean - self.before.mean

    def share_interval(self) -> tuple[float, float]:
        """Return the 99% confidence interval of the difference of shares: Newcombe, Statistics in Medicine 17, 1998."""
        (old, old_low, old_high), (new, new_low, new_high) = (
            (values.mean, *wilson_interval(values.mean, values.count / self.dispersion, _Z_99))
            for values in (self.before, self.recent)
        )
        return (
            self.difference - math.hypot(new - new_low, old_high - old),
            self.difference + math.hypot(new_high - new, old - old_low),
        )

    def mean_interval(self) -> tuple[float, float]:
        """Return the 99% confidence interval of the difference of means."""
        error = sum(values.variance * self.dispersion / values.count for values in (self.before, self.recent))
        half = _Z_99 * math.sqrt(error)
        return self.difference - half, self.difference + half


def _sum(parts: Sequence[_Values]) -> _Values:
    return _Values(
        sum(part.count for part in parts), sum(part.total for part in parts), sum(part.squares for part in parts)
    )
