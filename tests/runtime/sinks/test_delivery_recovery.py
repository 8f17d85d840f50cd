"""A delivery survives errors of its threads and its spool: live events continue, and queued ones are not lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.runtime.sinks.test_delivery import Away, Receiver, delivery, ids
from tests.support.event_toys import eventually, visits
from twincar_edge.errors import InputError
from twincar_edge.runtime.sinks import Spool
from twincar_edge.runtime.storage.database import DatabaseError


@pytest.mark.parametrize("error", [InputError("no space"), RuntimeError("a defect")], ids=["ours", "a bug"])
def test_the_spool_writer_recovers_from_errors_of_any_type(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, add = threading.Event(), Spool.add
    broken.set()

    def add_unless_broken(spool: Spool, entries: list[tuple[int, str]]) -> int:
        if broken.is_set():
            raise error
        return add(spool, entries)

    monkeypatch.setattr(Spool, "add", add_unless_broken)
    with delivery(Receiver(Away()), tmp_path / "spool", limit=100) as sending:
        for event in visits(10):
            sending.put(event)
        eventually(lambda: sending._writer.failures, "the writer has failed")
        assert "spool writer" in sending.faults()[0]
        broken.clear()
        eventually(lambda: sending.status().spooled == 10, "all on disk")


def test_an_unreadable_spool_is_skipped_and_read_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with delivery(Receiver(Away()), tmp_path / "spool") as sending:
        for event in visits(5):
            sending.put(event)
    first = Spool.first

    def unreadable(_spool: Spool, _after: int) -> None:
        raise DatabaseError("disk I/O error")

    monkeypatch.setattr(Spool, "first", unreadable)
    live, messages = Receiver(), list[str]()
    with delivery(live, tmp_path / "spool", messages) as sending:
        eventually(lambda: messages, "reported")
        for event in visits(3, first=5):
            sending.put(event)
        eventually(lambda: live.got == ["5", "6", "7"], "live events continue")
    assert "disk I/O error" in messages[0]
    monkeypatch.setattr(Spool, "first", first)
    later = Receiver()
    with delivery(later, tmp_path / "spool"):
        pass
    assert later.got == ids(visits(5))


def test_a_run_starts_even_if_its_spool_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with delivery(Receiver(Away()), tmp_path / "spool") as sending:
        for event in visits(3):
            sending.put(event)
    failing = threading.Event()
    failing.set()
    count = Spool._count

    def on_open(spool: Spool, connection: object) -> None:
        if failing.is_set():
            raise OSError("I/O error")
        count(spool, connection)  # type: ignore[arg-type]

    monkeypatch.setattr(Spool, "_count", on_open)
    away = Away()
    receiver = Receiver(away)
    with delivery(receiver, tmp_path / "spool") as sending:
        sending.put(visits(4)[3])
        failing.clear()
        eventually(lambda: sending.status().spooled == 4, "old and new on disk, none overwritten")
        away.back.set()
        eventually(lambda: len(receiver.got) == 4 or sending.status().queued == 0, "readable events are delivered")
    rest = Receiver()
    with delivery(rest, tmp_path / "spool"):
        pass
    assert sorted(receiver.got + rest.got) == ["0", "1", "2", "3"]
