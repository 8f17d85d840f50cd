"""What is kept and for how long: swept once an hour, whatever is saved, and never because a clock jumped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.runtime.sinks.test_delivery import delivery
from tests.support.event_toys import CROP, MOMENT, eventually, visit, visits
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks import CropSaver, Limits, Sink, crop_folder
from twincar_edge.runtime.sinks.retention import HOLD_S, SWEEP_S
from twincar_edge.runtime.sinks.store import EventStore, query

MONTH = Limits(age=timedelta(days=30))


class Time:
    """A clock and a monotonic one, which go together until one of them is set."""

    def __init__(self) -> None:
        self.now = MOMENT
        self.monotonic_s = 0.0

    def clock(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.monotonic_s

    def go(self, **time: float) -> None:
        self.now += timedelta(**time)
        self.monotonic_s += timedelta(**time).total_seconds()


Make = Callable[[Path, Time, Limits], Sink]
KINDS: list[Make] = [
    lambda path, time, limits: CropSaver(
        crop_folder(path / "crops", limits, clock=time.clock, monotonic=time.monotonic)
    ),
    lambda path, time, limits: EventStore(path / "s", limits=limits, clock=time.clock, monotonic=time.monotonic),
]


def kept(path: Path) -> list[str]:
    """Return the ids of what is kept, as pictures or in the store, by time."""
    if (path / "s").exists():
        return [event.id for event in query(path / "s")]
    return [file.stem.rpartition("Z-")[2] for file in sorted((path / "crops").iterdir())]


def daily(count: int) -> list[Event]:
    return [visit(id=str(number), started_at=MOMENT + timedelta(days=number)) for number in range(count)]


@pytest.mark.parametrize("make", KINDS, ids=["crops", "store"])
def test_what_is_older_than_its_age_goes_in_the_next_hour_although_nothing_is_saved(tmp_path: Path, make: Make) -> None:
    time = Time()
    with make(tmp_path, time, MONTH) as sink:
        for event in daily(40):
            sink.write(event, CROP)
        time.go(days=45)
        sink.tend()
    assert kept(tmp_path) == [str(number) for number in range(15, 40)]


@pytest.mark.parametrize("make", KINDS, ids=["crops", "store"])
def test_what_a_clock_ahead_has_dated_keeps_nothing_else(tmp_path: Path, make: Make) -> None:
    time = Time()
    ahead = visit(id="ahead", started_at=MOMENT.replace(year=2040))
    with make(tmp_path, time, MONTH) as sink:
        for event in [ahead, *daily(40)]:
            sink.write(event, CROP)
        time.go(days=45)
        sink.tend()
    assert kept(tmp_path) == [*(str(number) for number in range(15, 40)), "ahead"]


@pytest.mark.parametrize("make", KINDS, ids=["crops", "store"])
def test_a_clock_that_jumps_ahead_and_back_deletes_nothing(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    time, events = Time(), daily(20)
    with make(tmp_path, time, MONTH) as sink:
        for event in events:
            sink.write(event, CROP)
        right = time.now
        for hours in (0, 3):
            time.now = right.replace(year=2040)
            time.go(hours=hours, seconds=SWEEP_S)
            sink.tend()
        time.now = right + timedelta(hours=5)
        time.go(seconds=SWEEP_S)
        sink.tend()
        assert kept(tmp_path) == [event.id for event in events]
        assert caplog.text.count("are too old all at once: is the clock right?") == 1
        time.go(days=100)  # a box that was off for long: the clock is right, and stays so
        sink.tend()
        assert len(kept(tmp_path)) == 20
        time.go(seconds=HOLD_S)
        sink.tend()
        assert kept(tmp_path) == []


def test_a_delivery_tends_to_its_sink_without_events(tmp_path: Path) -> None:
    time = Time()
    saver = KINDS[0](tmp_path, time, MONTH)
    saver.tend_s = 0.02  # type: ignore[attr-defined]
    with saver:
        for event in daily(40):
            saver.write(event, CROP)
    with delivery(saver):  # type: ignore[arg-type]
        eventually(lambda: len(kept(tmp_path)) == 40, "nothing is too old")
        time.go(days=45)
        eventually(lambda: len(kept(tmp_path)) == 25, "swept")


def test_a_store_above_its_size_gives_the_oldest_up_and_the_room_back(tmp_path: Path) -> None:
    time, path = Time(), tmp_path / "s"
    limits = Limits(size_bytes=300_000)
    with EventStore(path, limits=limits, clock=time.clock, monotonic=time.monotonic) as store:
        store.tend()
        for event in visits(400):
            store.write(event, CROP)
        time.go(seconds=SWEEP_S)
        store.tend()
    assert path.stat().st_size < 400_000
    ids = [int(event.id) for event in query(path)]
    assert ids == list(range(400 - len(ids), 400))
    assert 100 < len(ids) < 400
