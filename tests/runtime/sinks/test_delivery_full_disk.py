"""A disk that is really full: pictures stop first, one line says so, events go on, and the loop never dies of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.sinks.test_delivery import Away, Receiver, delivery
from tests.support.disks import small_disk
from tests.support.event_toys import CROP, eventually, visit, visits
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.sinks import (
    CropSaver,
    CsvFile,
    Delivery,
    DeliveryPolicy,
    JsonLines,
    Limits,
    Sink,
    Spool,
    crop_folder,
)
from twincar_edge.runtime.sinks.store import EventStore, query


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes: a store of a few visits and its log take half of one."""
    with small_disk(tmp_path / "disk", "2m") as folder:
        yield folder


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    path = disk / "ballast"
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return path


def started(sink: Sink, said: list[str], spool: Spool | None = None, **policy: object) -> Delivery:
    options = DeliveryPolicy(**{"drain_s": 20.0, **policy})  # type: ignore[arg-type]
    return Delivery(sink, "sink", options, spool=spool, backoff=Backoff(0.001, 0.02), on_problem=said.append)


def test_pictures_stop_under_the_reserve_and_events_go_on(disk: Path) -> None:
    said: list[str] = []
    store = started(EventStore(disk / "events.sqlite"), said)
    pictures = CropSaver(crop_folder(disk / "crops", Limits(reserve_bytes=900_000)))
    crops = started(pictures, said, crops=True, retry=False, limit=16)
    with store, crops:
        events = visits(60)
        for number, event in enumerate(events[:50]):
            if number == 10:
                (disk / "ballast").write_bytes(b"x" * 1_200_000)
            for sink in (store, crops):
                sink.write(event, CROP)
            eventually(lambda: store.status().queued == crops.status().queued == 0, "written")
        assert crops.status().dropped == 40
        (disk / "ballast").unlink()
        for event in events[50:]:
            for sink in (store, crops):
                sink.write(event, CROP)
            eventually(lambda: store.status().queued == crops.status().queued == 0, "written")
    assert len(query(disk / "events.sqlite")) == 60
    assert len(list((disk / "crops").iterdir())) == 20
    assert store.status().dropped == 0
    assert len(said) == 2
    assert "no pictures are saved" in said[0]
    assert said[1] == "sink: delivers again; 40 events were lost"


@pytest.mark.parametrize("kind", [EventStore, JsonLines, CsvFile])
def test_events_wait_in_memory_while_the_disk_is_full_and_are_whole_when_it_has_room(disk: Path, kind: type) -> None:
    said: list[str] = []
    path = disk / "events"
    events = visits(200)
    with started(kind(path), said, Spool(disk / "spool.sqlite")) as sink:
        for event in events[:20]:
            sink.put(event)
        eventually(lambda: sink.status().delivered == 20, "the first are written")
        ballast = fill(disk)
        for event in events[20:]:
            sink.put(event)
        eventually(lambda: sink.status().problem, "the disk is full")
        ballast.unlink()
        eventually(lambda: sink.status().delivered == 200, "all are written")
    assert sink.status().dropped == 0
    assert len(said) in (2, 3)  # the sink's failure, perhaps the spool's, and the recovery: no line for every event
    if kind is EventStore:
        assert [event.id for event in query(path)] == [event.id for event in events]
    else:
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) == 200 + (kind is CsvFile)
        assert all(line.endswith("cpu" if kind is CsvFile else "}") for line in lines[1:])


@pytest.mark.parametrize("kind", [EventStore, JsonLines])
def test_a_disk_that_is_full_from_the_start_and_too_many_events_are_counted(disk: Path, kind: type) -> None:
    said: list[str] = []
    ballast = fill(disk)
    with started(kind(disk / "events"), said, Spool(disk / "spool.sqlite"), limit=50) as sink:
        for event in visits(80):
            sink.put(event)
        eventually(lambda: sink.status().problem, "the disk is full")
        eventually(lambda: sink.status().dropped >= 29, "what memory has no room for is counted")
        ballast.unlink()
        eventually(lambda: sink.status().queued == sink.status().spooled == 0, "the rest is written")
    status = sink.status()
    assert status.delivered + status.dropped == 80
    assert status.dropped <= 30
    assert any("events were lost" in line for line in said)


def test_what_was_spooled_is_sent_once_although_a_full_disk_keeps_it_from_being_removed(disk: Path) -> None:
    away, said = Away(), list[str]()
    receiver = Receiver(away)
    spool = Spool(disk / "spool.sqlite")
    with started(receiver, said, spool) as sink:
        for event in visits(100):
            sink.put(event)
        eventually(lambda: sink.status().spooled == 100, "all on disk")
        fill(disk)
        away.back.set()
        sink.put(visit(id="100"))
        eventually(lambda: sink.status().delivered == 101, "all delivered")
    assert receiver.got == [str(number) for number in range(101)]


def test_a_box_starts_on_a_full_disk_with_what_waits_there(disk: Path) -> None:
    with delivery(Receiver(Away()), disk / "spool.sqlite") as sending:
        for event in visits(10):
            sending.put(event)
    fill(disk)
    receiver = Receiver()
    with delivery(receiver, disk / "spool.sqlite") as sending:
        sending.put(visit(id="10"))
    assert receiver.got == [str(number) for number in range(11)]


def test_what_is_lost_at_closing_on_a_full_disk_is_counted_and_said(disk: Path) -> None:
    said: list[str] = []
    fill(disk)
    with started(Receiver(Away()), said, Spool(disk / "spool.sqlite"), drain_s=0.2) as sink:
        for event in visits(10):
            sink.put(event)
    assert sink.status().dropped == 10
    assert said[-1] == "sink: 10 events are lost at closing: it is away"
