"""On a real full disk pictures stop first, events continue, the failure is logged once, and the loop survives."""

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
    """A file system of 2 MB; a store of a few visits and its log need half a megabyte."""
    with small_disk(tmp_path / "disk", "2m") as folder:
        yield folder


def fill(disk: Path) -> Path:
    """Fill the disk to the last byte."""
    path = disk / "ballast"
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return path


def started(sink: Sink, messages: list[str], spool: Spool | None = None, **policy: object) -> Delivery:
    options = DeliveryPolicy(**{"drain_s": 20.0, **policy})  # type: ignore[arg-type]
    return Delivery(sink, "sink", options, spool=spool, backoff=Backoff(0.001, 0.02), on_problem=messages.append)


def test_below_the_reserve_pictures_stop_and_events_continue(disk: Path) -> None:
    messages: list[str] = []
    store = started(EventStore(disk / "events.sqlite"), messages)
    pictures = CropSaver(crop_folder(disk / "crops", Limits(reserve_bytes=900_000)))
    crops = started(pictures, messages, crops=True, retry=False, limit=16)
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
    assert len(messages) == 2
    assert "not saving pictures" in messages[0]
    assert messages[1] == "sink: delivery recovered; 40 events lost"


@pytest.mark.parametrize("kind", [EventStore, JsonLines, CsvFile])
def test_events_wait_in_memory_while_the_disk_is_full_and_are_written_completely_later(disk: Path, kind: type) -> None:
    messages: list[str] = []
    path = disk / "events"
    events = visits(200)
    with started(kind(path), messages, Spool(disk / "spool.sqlite")) as sink:
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
    assert len(messages) in (2, 3)  # the sink's failure, perhaps the spool's, and the recovery
    if kind is EventStore:
        assert [event.id for event in query(path)] == [event.id for event in events]
    else:
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) == 200 + (kind is CsvFile)
        assert all(line.endswith("cpu" if kind is CsvFile else "}") for line in lines[1:])


@pytest.mark.parametrize("kind", [EventStore, JsonLines])
def test_on_a_disk_that_is_full_from_the_start_dropped_events_are_counted(disk: Path, kind: type) -> None:
    messages: list[str] = []
    ballast = fill(disk)
    with started(kind(disk / "events"), messages, Spool(disk / "spool.sqlite"), limit=50) as sink:
        for event in visits(80):
            sink.put(event)
        eventually(lambda: sink.status().problem, "the disk is full")
        eventually(lambda: sink.status().dropped >= 29, "dropped events are counted")
        ballast.unlink()
        eventually(lambda: sink.status().queued == sink.status().spooled == 0, "the rest is written")
    status = sink.status()
    assert status.delivered + status.dropped == 80
    assert status.dropped <= 30
    assert any("events lost" in line for line in messages)


def test_spooled_events_are_sent_once_even_if_a_full_disk_prevents_their_removal(disk: Path) -> None:
    away, messages = Away(), list[str]()
    receiver = Receiver(away)
    spool = Spool(disk / "spool.sqlite")
    with started(receiver, messages, spool) as sink:
        for event in visits(100):
            sink.put(event)
        eventually(lambda: sink.status().spooled == 100, "all on disk")
        fill(disk)
        away.back.set()
        sink.put(visit(id="100"))
        eventually(lambda: sink.status().delivered == 101, "all delivered")
    assert receiver.got == [str(number) for number in range(101)]


def test_a_run_starts_on_a_full_disk_and_delivers_its_spool(disk: Path) -> None:
    with delivery(Receiver(Away()), disk / "spool.sqlite") as sending:
        for event in visits(10):
            sending.put(event)
    fill(disk)
    receiver = Receiver()
    with delivery(receiver, disk / "spool.sqlite") as sending:
        sending.put(visit(id="10"))
    assert receiver.got == [str(number) for number in range(11)]


def test_events_lost_at_shutdown_on_a_full_disk_are_counted_and_reported(disk: Path) -> None:
    messages: list[str] = []
    fill(disk)
    with started(Receiver(Away()), messages, Spool(disk / "spool.sqlite"), drain_s=0.2) as sink:
        for event in visits(10):
            sink.put(event)
    assert sink.status().dropped == 10
    assert messages[-1] == "sink: 10 events lost at shutdown: it is away"
