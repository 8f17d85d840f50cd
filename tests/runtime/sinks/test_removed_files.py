"""Files and folders that are deleted, moved or unmounted while they are written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.sinks.test_delivery import Away, Receiver, delivery
from tests.support.disks import small_disk
from tests.support.event_toys import CROP, eventually, visit, visits
from twincar_edge.runtime.sinks import CropSaver, DeliveryError, JsonLines, Sink, Spool, crop_folder
from twincar_edge.runtime.sinks.store import EventStore, query


def delete(path: Path) -> None:
    path.unlink()


def delete_folder(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved folder"))


@pytest.mark.parametrize("remove", [delete, delete_folder, move, move_folder])
def test_a_store_that_was_deleted_or_moved_is_recreated_for_the_next_visit(
    tmp_path: Path, remove: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state" / "events.sqlite"
    before, after = visits(3), visits(3, first=3)
    with EventStore(path) as store:
        for event in before:
            store.write(event, CROP)
        remove(path)
        for event in after:
            store.write(event, CROP)
    assert query(path) == after
    for moved in (tmp_path / "state" / "moved", tmp_path / "moved folder" / "events.sqlite"):
        if moved.exists():
            assert query(moved) == before
    assert caplog.text.count("was moved or deleted") == 1


def test_new_visits_go_to_a_store_that_was_replaced(tmp_path: Path) -> None:
    with EventStore(tmp_path / "other") as other:
        other.write(visit(id="restored"), CROP)
    with EventStore(tmp_path / "s") as store:
        store.write(visit(id="1"), CROP)
        (tmp_path / "other").replace(tmp_path / "s")
        store.write(visit(id="2"), CROP)
    assert {event.id for event in query(tmp_path / "s")} == {"restored", "2"}


def test_a_deleted_spool_is_recreated_for_later_events(tmp_path: Path) -> None:
    with delivery(Receiver(Away()), tmp_path / "spool") as sending:
        sending.put(visit(id="1"))
        eventually(lambda: sending.status().spooled == 1, "on disk")
        (tmp_path / "spool").unlink()
        sending.put(visit(id="2"))
        eventually(lambda: sending.status().queued == 0, "on disk")
    receiver = Receiver()
    with delivery(receiver, tmp_path / "spool"):
        pass
    assert receiver.got == ["2"]


def test_events_of_another_spool_at_its_place_are_set_aside_and_lose_none_of_this_run(tmp_path: Path) -> None:
    path, other = tmp_path / "spool", Spool(tmp_path / "other")
    other.open()
    other.add([(number, event.to_json()) for number, event in enumerate(visits(20, first=100), 1)])
    other.close()
    away = Away()
    receiver = Receiver(away)
    with delivery(receiver, path) as sending:
        sending.put(visit(id="1"))
        eventually(lambda: sending.status().spooled == 1, "on disk")
        path.rename(tmp_path / "first")
        (tmp_path / "other").rename(path)  # its numbers are also those of this run
        sending.put(visit(id="2"))
        eventually(lambda: sending.status().queued == 0, "on disk")
        assert (sending.status().spooled, sending.status().aside) == (1, 20)
        (tmp_path / "first").replace(path)  # the first disk is back
        sending.put(visit(id="3"))
        eventually(lambda: sending.status().queued == 0, "on disk")
        assert (sending.status().spooled, sending.status().aside) == (1, 1)
        away.back.set()
        eventually(lambda: receiver.got == ["3"], "delivered")


def test_a_spool_that_is_back_at_its_place_is_used_as_before(tmp_path: Path) -> None:
    path, away = tmp_path / "spool", Away()
    receiver = Receiver(away)
    with delivery(receiver, path) as sending:
        sending.put(visit(id="1"))
        eventually(lambda: sending.status().spooled == 1, "on disk")
        for file in (path, path.with_name("spool-wal")):  # another inode, as some file systems give after each mount
            shutil.copy(file, tmp_path / "copy")
            (tmp_path / "copy").replace(file)
        sending.put(visit(id="2"))
        eventually(lambda: sending.status().queued == 0, "on disk")
        assert (sending.status().spooled, sending.status().aside) == (2, 0)
        away.back.set()
        eventually(lambda: receiver.got == ["1", "2"], "delivered")


MAKERS = pytest.mark.parametrize(
    "make",
    [
        lambda folder: EventStore(folder / "s"),
        lambda folder: JsonLines(folder / "s"),
        lambda folder: CropSaver(crop_folder(folder)),
    ],
    ids=["store", "jsonl", "crops"],
)


@MAKERS
def test_nothing_is_written_to_the_mount_point_of_an_unmounted_disk(
    tmp_path: Path, make: Callable[[Path], Sink]
) -> None:
    """The disk returns with another device number, as a USB disk that was unplugged does."""
    folder, link = tmp_path / "disk", tmp_path / "link"
    link.symlink_to(folder)
    events = visits(2)
    with small_disk(folder, "1m"):
        device = folder.stat().st_dev
        sink = make(link)
        sink.open()
        sink.write(events[0], CROP)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        try:
            for event in events:
                with pytest.raises(DeliveryError, match="is no longer mounted at"):
                    sink.write(event, CROP)
            assert list(folder.iterdir()) == []
        finally:
            with small_disk(tmp_path / "other", "1m"):  # takes the free device number
                mount(folder)
        assert folder.stat().st_dev != device
        for event in events:
            sink.write(event, CROP)
        sink.close()
        assert any(folder.iterdir())


def mount(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "twincar-test", str(folder)], check=True)


@MAKERS
def test_a_disk_that_is_mounted_late_is_used_and_then_required(tmp_path: Path, make: Callable[[Path], Sink]) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    events = visits(3)
    with make(folder) as sink:
        sink.write(events[0], CROP)
        before = {path.name for path in folder.iterdir()}
        with small_disk(folder, "1m"):
            sink.write(events[1], CROP)
            assert any(folder.iterdir())
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            with pytest.raises(DeliveryError, match="is no longer mounted at"):
                sink.write(events[2], CROP)
            assert {path.name for path in folder.iterdir()} == before
            mount(folder)
            sink.write(events[2], CROP)
            sink.close()
