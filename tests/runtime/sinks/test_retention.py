"""Retention: limits are enforced hourly, with or without new entries, and a clock that jumps deletes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.runtime.sinks.test_delivery import delivery
from tests.support.disks import mounted_read_only, small_disk
from tests.support.event_toys import CROP, MOMENT, eventually, visit, visits
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks import CropSaver, Delivery, Limits, Sink, clip_saver, crop_folder
from twincar_edge.runtime.sinks.clip_saver import ClipSaver
from twincar_edge.runtime.sinks.retention import HOLD_S, SWEEP_S
from twincar_edge.runtime.sinks.store import EventStore, query
from twincar_edge.runtime.sinks.visit_folder import VisitFolder, visit_file_name

MONTH = Limits(age=timedelta(days=30))


class Time:
    """A wall clock and a monotonic clock that advance together until one is set."""

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


def stored_ids(path: Path) -> list[str]:
    """Return the ids of the entries, as pictures or in the store, by time."""
    if (path / "s").exists():
        return [event.id for event in query(path / "s")]
    return [file.stem.rpartition("Z-")[2] for file in sorted((path / "crops").iterdir())]


def daily(count: int) -> list[Event]:
    return [visit(id=str(number), started_at=MOMENT + timedelta(days=number)) for number in range(count)]


@pytest.mark.parametrize("make", KINDS, ids=["crops", "store"])
def test_expired_entries_are_deleted_within_an_hour_even_without_new_ones(tmp_path: Path, make: Make) -> None:
    time = Time()
    with make(tmp_path, time, MONTH) as sink:
        for event in daily(40):
            sink.write(event, CROP)
        time.go(days=45)
        sink.tend()
    assert stored_ids(tmp_path) == [str(number) for number in range(15, 40)]


@pytest.mark.parametrize("make", KINDS, ids=["crops", "store"])
def test_an_entry_dated_in_the_future_does_not_prevent_the_deletion_of_others(tmp_path: Path, make: Make) -> None:
    time = Time()
    ahead = visit(id="ahead", started_at=MOMENT.replace(year=2040))
    with make(tmp_path, time, MONTH) as sink:
        for event in [ahead, *daily(40)]:
            sink.write(event, CROP)
        time.go(days=45)
        sink.tend()
    assert stored_ids(tmp_path) == [*(str(number) for number in range(15, 40)), "ahead"]


@pytest.mark.parametrize("make", KINDS, ids=["crops", "store"])
def test_a_clock_that_jumps_deletes_nothing_unless_it_stays_ahead(
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
        assert stored_ids(tmp_path) == [event.id for event in events]
        assert caplog.text.count("expired at once: check the clock") == 1
        time.go(days=100)  # the box was off for long, and the clock is right
        sink.tend()
        assert len(stored_ids(tmp_path)) == 20
        time.go(seconds=HOLD_S)
        sink.tend()
        assert stored_ids(tmp_path) == []


def test_a_delivery_calls_tend_without_events(tmp_path: Path) -> None:
    time = Time()
    saver = KINDS[0](tmp_path, time, MONTH)
    saver.tend_s = 0.02  # type: ignore[attr-defined]
    with saver:
        for event in daily(40):
            saver.write(event, CROP)
    with delivery(saver):  # type: ignore[arg-type]
        eventually(lambda: len(stored_ids(tmp_path)) == 40, "nothing has expired")
        time.go(days=45)
        eventually(lambda: len(stored_ids(tmp_path)) == 25, "swept")


def test_a_failed_sweep_of_a_store_is_retried_and_its_problem_ends(tmp_path: Path) -> None:
    time = Time()
    store = KINDS[1](tmp_path, time, MONTH)
    store.tend_s = 0.02  # type: ignore[attr-defined]
    messages: list[str] = []
    with store:
        for event in daily(40):
            store.write(event, CROP)
    with delivery(store, messages=messages) as sending:  # type: ignore[arg-type]
        other = sqlite3.connect(tmp_path / "s", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        time.go(days=45)
        eventually(lambda: "locked" in (sending.status().problem or ""), "the sweep fails")
        other.execute("ROLLBACK")
        other.close()
        eventually(lambda: len(stored_ids(tmp_path)) == 25, "swept within the same hour")
        eventually(lambda: sending.status().problem is None, "recovered without an event")
    assert len(messages) == 2 and messages[1].endswith("periodic work recovered")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


@pytest.mark.parametrize("kind", ["crops", "clips"])
def test_a_sweep_that_fails_on_a_read_only_disk_is_retried_and_its_problem_ends(
    disk: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time()
    monkeypatch.setattr(clip_saver, "TEND_S", 0.02)
    if kind == "crops":
        folder = crop_folder(disk, MONTH, clock=time.clock, monotonic=time.monotonic)
        saver = CropSaver(folder)
        saver.tend_s = 0.02
        sink: ClipSaver | Delivery = delivery(saver)  # type: ignore[arg-type]
    else:
        folder = VisitFolder(disk, ".mp4", "clip", MONTH, clock=time.clock, monotonic=time.monotonic)
        sink = ClipSaver(folder, "clips")
    with sink:
        for event in daily(40):
            name = visit_file_name(event.started_at, event.id, ".jpg" if kind == "crops" else ".mp4")
            folder.save(name, lambda path: path.touch())
        with mounted_read_only(disk):
            time.go(days=45)
            eventually(lambda: "cannot delete old" in (sink.status().problem or ""), "the sweep fails")
        eventually(lambda: len(list(disk.iterdir())) == 25, "swept within the same hour")
        eventually(lambda: sink.status().problem is None, "recovered without an event")


def test_a_store_above_its_size_limit_deletes_the_oldest_visits_and_shrinks(tmp_path: Path) -> None:
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
