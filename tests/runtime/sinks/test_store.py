"""The store: one row per visit, durable writes, concurrent readers."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests import REPOSITORY
from tests.runtime.sinks.test_delivery import quick
from tests.support.event_toys import CROP, MOMENT, eventually, schema_2_json, visit, visits
from twincar_edge.errors import InputError
from twincar_edge.runtime.sinks import Delivery, DeliveryError, Spool
from twincar_edge.runtime.sinks.store import EventFilter, EventStore, query, read_events, read_visits
from twincar_edge.runtime.sinks.store_schema import MIGRATIONS
from twincar_edge.runtime.storage.database import Database


def written(path: Path, *events: object) -> Path:
    with EventStore(path) as store:
        for event in events:
            store.write(event, CROP)  # type: ignore[arg-type]
    return path


def test_a_visit_is_one_row_with_its_newest_event(tmp_path: Path) -> None:
    path = tmp_path / "state" / "events.sqlite"
    steps = [visit(type=kind, crops=number + 1) for number, kind in enumerate(("start", "update", "update", "end"))]
    with EventStore(path) as store:
        for step in steps:
            store.write(step, CROP)
            assert query(path) == [step]  # on disk before write returns
    assert query(path) == steps[-1:]


def test_redelivered_events_do_not_reopen_an_ended_visit(tmp_path: Path) -> None:
    path = written(tmp_path / "s", visit(), visit(type="start"), visit(type="update"))
    assert query(path) == [visit()]


def test_a_store_of_the_first_version_is_readable_and_migrated_on_writing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    database = Database(path, MIGRATIONS[:1], "store")
    values = ("old", 0, "end", "gate", "unknown", "unknown", None, None, visit(id="old").to_json())
    database.run(lambda it: it.execute(f"INSERT INTO visits VALUES ({', '.join('?' * len(values))})", values))
    database.close()
    assert [(one.event.id, one.crop, one.clip) for one in read_visits(path)] == [("old", None, None)]
    with EventStore(path, crops=tmp_path / "crops") as store:
        store.write(visit(id="new", crop="new.jpg"), CROP)
    assert {one.event.id: one.crop for one in read_visits(path)} == {"old": None, "new": tmp_path / "crops" / "new.jpg"}


def test_a_finished_run_replaces_only_earlier_visits_of_the_same_file_and_camera(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path / "s",
        visit(id="a", recording="one"),
        visit(id="b", recording="one", camera="yard"),
        visit(id="c", recording="two"),
        visit(id="d"),
    )
    with EventStore(path) as store:
        store.write(visit(id="e", recording="one"), CROP)
        assert len(query(path)) == 5
        store.finished(visit().camera, {"one"})
    assert {event.id for event in query(path)} == {"b", "c", "d", "e"}


def test_undelivered_events_leave_the_visits_of_earlier_runs(tmp_path: Path) -> None:
    path = written(tmp_path / "s", visit(id="a", recording="one"))
    with Delivery(EventStore(path), "store", backoff=quick(), on_problem=lambda _line: None) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.put(visit(id="b", recording="one"))
        store.finished(visit().camera, {"one"})
        eventually(lambda: store.status().problem, "the store cannot be written")
        store.stop()
        eventually(lambda: not store._sender.is_alive(), "the sender ended")
        other.execute("ROLLBACK")
        other.close()
    assert [event.id for event in query(path)] == ["a"]


def test_a_false_positive_is_removed_from_the_store(tmp_path: Path) -> None:
    no_vehicle = visit(id="ground", false_positive=True)
    path = written(tmp_path / "s", visit(id="car"), visit(id="ground", type="start"), no_vehicle, no_vehicle)
    assert query(path) == [visit(id="car")]


def test_filters_select_visits_by_their_fields(tmp_path: Path) -> None:
    cars = [
        visit(id="a", camera="gate", make="BMW", model="3 Series", name="BMW 3 Series Sedan 2012"),
        visit(id="b", camera="yard", make="BMW", model="X5", name="BMW X5 SUV 2007", level="model"),
        visit(id="c", camera="gate", make="Škoda", model="Octavia", name="Škoda Octavia Wagon 2012"),
        visit(id="d", camera="gate", make=None, model=None, name="unknown", level="unknown"),
    ]
    cars = [car.model_copy(update={"started_at": MOMENT + timedelta(hours=hour)}) for hour, car in enumerate(cars)]
    path = written(tmp_path / "s", *reversed(cars))

    def found(**wanted: object) -> str:
        return "".join(event.id for event in query(path, EventFilter(**wanted)))  # type: ignore[arg-type]

    assert found() == "abcd"  # by time, whatever the order of arrival
    assert found(camera="yard") == "b"
    assert found(make="bmw") == "ab"
    assert found(make="škoda") == found(make="ŠKODA") == "c"
    assert found(make="BM") == ""
    assert found(model="series") == "a"
    assert found(name="2012") == "ac"
    assert found(name="%") == found(name="_") == found(name="' OR 1 --") == ""
    assert found(levels=("model", "unknown")) == "bd"
    assert found(since=cars[1].started_at) == "bcd"
    assert found(until=cars[1].started_at) == "a"
    assert found(since=cars[1].started_at, until=cars[3].started_at, camera="gate") == "c"
    assert found(limit=2) == "cd"


def test_a_reader_does_not_block_the_writer_and_sees_its_snapshot(tmp_path: Path) -> None:
    path = written(tmp_path / "s", *visits(100))
    reading = read_events(path)
    next(reading)
    with EventStore(path) as store:
        for event in visits(100, 100):
            store.write(event, CROP)
    assert len(list(reading)) == 99
    assert len(query(path)) == 200


def test_a_locked_store_delays_events_but_loses_none(tmp_path: Path) -> None:
    path = written(tmp_path / "s", visit(id="first"))
    messages: list[str] = []
    spool = Spool(tmp_path / "spool")
    with Delivery(EventStore(path), "store", spool=spool, backoff=quick(), on_problem=messages.append) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for event in visits(20):
            store.put(event)
        eventually(lambda: store.status().problem, "the failure is reported")
        assert "locked" in (store.status().problem or "")
        other.execute("ROLLBACK")
        other.close()
        eventually(lambda: store.status().delivered == 20, "all written")
    assert len(query(path)) == 21


@pytest.mark.parametrize("when", ["at the start", "while it runs"])
def test_a_damaged_store_is_renamed_and_new_visits_are_stored(
    tmp_path: Path, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "events.sqlite", *visits(500))
    damaged = bytearray(path.read_bytes())
    damaged[24:12000] = b"\x5a" * (12000 - 24)
    if when == "at the start":
        path.write_bytes(damaged)
        written(path, visit(id="new"))
    else:
        with EventStore(path) as store:
            path.write_bytes(damaged)
            store.write(visit(id="new"), CROP)
    assert [event.id for event in query(path)] == ["new"]
    (aside,) = tmp_path.glob("events.sqlite.corrupt-*Z")
    assert aside.read_bytes() == damaged
    assert caplog.text.count("is damaged") == 1
    assert ".recover" in caplog.text


def test_a_zeroed_file_counts_as_damaged_and_foreign_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(8192))
    written(tmp_path / "zeros", visit())
    assert query(tmp_path / "zeros") == [visit()]
    assert len(list(tmp_path.glob("zeros.corrupt-*"))) == 1
    (tmp_path / "notes.txt").write_text("my notes, and they stay here")
    (tmp_path / "other.sqlite").touch()
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = (tmp_path / "other.sqlite").read_bytes()
    for name, message in (("notes.txt", "not an SQLite file"), ("other.sqlite", "not made by twincar-edge")):
        with pytest.raises(InputError, match=message), EventStore(tmp_path / name):
            pass
    assert (tmp_path / "notes.txt").read_text() == "my notes, and they stay here"
    assert (tmp_path / "other.sqlite").read_bytes() == before
    with pytest.raises(InputError, match="not made by twincar-edge"):
        query(tmp_path / "other.sqlite")
    with pytest.raises(InputError, match="cannot read"):
        query(tmp_path / "notes.txt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"), EventStore(tmp_path / "pipe"):
        pass
    for name in ("nothing", "pipe", "x" * 300):
        with pytest.raises(InputError, match="no store"):
            query(tmp_path / name)


def test_a_store_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    path = written(tmp_path / "s", visit())
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(InputError, match="newer twincar-edge"), EventStore(path):
        pass


def test_a_partially_created_store_is_empty_and_usable(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    path.touch()
    assert query(path) == []
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    assert query(path) == []
    assert query(written(path, visit())) == [visit()]


def test_an_unreadable_row_is_skipped_and_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "s", *visits(3))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE visits SET event = '{\"schema_version\": 9}' WHERE id = '1'")
    connection.close()
    messages: list[str] = []
    assert [event.id for event in query(path, None, messages.append)] == ["0", "2"]
    assert len(messages) == 1


def test_visits_of_an_earlier_release_are_readable(tmp_path: Path) -> None:
    path = written(tmp_path / "s", *visits(2))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE visits SET event = ? WHERE id = '0'", [schema_2_json(visits(1)[0])])
    connection.close()
    messages: list[str] = []
    old, new = visits(2)
    assert query(path, None, messages.append) == [old.model_copy(update={"deciding_frames": (), "course": ()}), new]
    assert messages == []


def test_a_failing_file_is_a_retryable_error(tmp_path: Path) -> None:
    with EventStore(tmp_path / "folder" / "s") as store:
        shutil.rmtree(tmp_path / "folder")
        (tmp_path / "folder").write_text("in the way")
        store.close()
        with pytest.raises(DeliveryError, match="cannot use the store"):
            store.write(visit(), CROP)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")
def test_a_user_with_read_access_can_read_a_store_at_rest_and_in_use(tmp_path: Path) -> None:
    path = written(tmp_path / "s", *visits(3))
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o055 != 0o055:  # pytest's folders are private
            folder.chmod(0o755)
    program = (
        "import os, sys, pathlib\nfrom twincar_edge.runtime.sinks.store import query\nos.setuid(65534)\n"
        f"assert not os.access({str(tmp_path)!r}, os.W_OK)\nprint(len(query(pathlib.Path({str(path)!r}))))\n"
    )

    def count() -> str:
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert count() == "3"
    with EventStore(path) as store:
        store.write(visit(), CROP)
        assert count() == "4"


# Writes visits as fast as possible and prints each once it is committed.
_WRITER = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.support.event_toys import CROP, visit
from twincar_edge.runtime.sinks.store import EventStore

print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("dead", flush=True)
        continue
    print("child", os.getpid(), flush=True)
    with EventStore(Path({path!r})) as store:
        number = int(line) * 100_000
        while True:
            for kind in ("start", "update", "end"):
                store.write(visit(id=str(number), type=kind), CROP)
            os.write(1, b"%d\\n" % number)
            number += 1
"""


def test_kills_at_50_random_moments_lose_and_duplicate_no_visit(tmp_path: Path, rng: np.random.Generator) -> None:
    """Committed visits are stored, each in one row, and the store opens every time without repair."""
    path = tmp_path / "events.sqlite"
    root = REPOSITORY
    program = _WRITER.format(root=str(root), path=str(path))
    forker = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert forker.stdin is not None
    assert forker.stdout is not None
    committed: list[str] = []
    try:
        assert forker.stdout.readline() == "ready\n"
        for start in range(50):
            forker.stdin.write(f"{start}\n")
            child = int(forker.stdout.readline().split()[1])
            delay = subprocess.Popen(["sleep", f"{rng.uniform(0.0, 0.15):.4f}"])
            if start % 5:  # one kill in five may hit the opening of the store
                committed.append(forker.stdout.readline().strip())
            delay.wait()
            os.kill(child, 9)
            while (line := forker.stdout.readline()) != "dead\n":
                committed.append(line.strip())
            stored = [event.id for event in query(path)] if path.exists() else []
            assert set(committed) <= set(stored)
            assert len(set(stored)) == len(stored)
            assert len(stored) <= len(committed) + start + 1  # per run, one may have been in flight
    finally:
        forker.stdin.close()
        forker.wait(20)
        forker.stdout.close()
    assert len(committed) >= 40
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_visits_are_found_by_a_literal_id_prefix(tmp_path: Path) -> None:
    path = written(tmp_path / "s", *(visit(id=id) for id in ("a", "ab", "ab%", "abc-1", "ab\u00e9", "AB", "ac", "b")))
    found = {event.id for event in query(path, EventFilter(id="ab"))}
    assert found == {"ab", "ab%", "abc-1", "ab\u00e9"}
    assert [event.id for event in query(path, EventFilter(id="ab%"))] == ["ab%"]


def test_an_unfinished_read_does_not_make_the_log_grow(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with EventStore(path) as store:
        for event in visits(100):
            store.write(event, CROP)
        reader = read_events(path)
        assert next(reader) == visits(1)[0]
        for event in visits(200, first=100):
            store.write(event, CROP)
        assert (tmp_path / "s-wal").stat().st_size < 2 * 2**20
        assert len(list(reader)) == 99  # those that existed at its start
    assert len(query(path)) == 300


def test_reading_in_batches_preserves_the_order_and_skips_deleted_visits(tmp_path: Path) -> None:
    events = visits(1200)
    with EventStore(tmp_path / "s") as store:
        for event in reversed(events):
            store.write(event, CROP)
        reader = read_events(tmp_path / "s")
        first = next(reader)
        store._database.run(lambda connection: connection.execute("DELETE FROM visits WHERE id = '1100'"))
        assert [first, *reader] == [event for event in events if event.id != "1100"]
    assert query(tmp_path / "s", EventFilter(limit=3)) == events[-3:]


def test_a_large_log_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with EventStore(path) as store:
        store.write(visit(), CROP)
        reader = sqlite3.connect(path)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM visits").fetchone()
        for event in visits(200):
            store.write(event, CROP)
        assert (tmp_path / "s-wal").stat().st_size > 2**21
        reader.close()
        for event in visits(80, first=200):
            store.write(event, CROP)
        assert (tmp_path / "s-wal").stat().st_size <= 2**20
