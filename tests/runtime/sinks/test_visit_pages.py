"""Queries for the page: pages of visits, counts, choices and tallies, with and without indexes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.event_toys import CROP, MOMENT, visit, visits
from twincar_edge.errors import InputError
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.store import EventFilter, EventStore
from twincar_edge.runtime.sinks.visit_pages import (
    PageCursor,
    VisitPage,
    choices,
    count,
    read_all,
    read_one,
    read_page,
    tally,
    tally_times,
)

ALL = EventFilter()
Write = Callable[[list[Event]], Path]


@pytest.fixture(params=["with indexes", "of an older version"])
def write(tmp_path: Path, request: pytest.FixtureRequest) -> Write:
    """Return a function that writes a store, with this version's indexes or without."""

    def written(events: list[Event]) -> Path:
        path = tmp_path / "events.sqlite"
        store = EventStore(path)
        for event in events:
            store.write(event, CROP)
        store.close()
        if request.param == "of an older version":
            connection = sqlite3.connect(path)
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOT NULL"
            ).fetchall()
            for (name,) in names:
                connection.execute(f"DROP INDEX {name}")
            connection.execute("PRAGMA user_version = 2")
            connection.close()
        return path

    return written


def ids(page: VisitPage) -> list[str]:
    return [visit.event.id for visit in page.visits]


def test_paging_back_and_forth_misses_no_visit_even_with_equal_start_times(write: Write) -> None:
    path = write([visit(id=str(n), started_at=MOMENT + timedelta(seconds=n // 3)) for n in range(10)])
    forth: list[VisitPage] = [read_page(path, ALL, 4)]
    while (older := forth[-1].older) is not None:
        forth.append(read_page(path, ALL, 4, before=older))
    assert [ids(page) for page in forth] == [["9", "8", "7", "6"], ["5", "4", "3", "2"], ["1", "0"]]
    assert forth[0].newer is None
    back = [forth[-1]]
    while (newer := back[-1].newer) is not None:
        back.append(read_page(path, ALL, 4, after=newer))
    assert [ids(page) for page in back] == [["1", "0"], ["5", "4", "3", "2"], ["9", "8", "7", "6"]]
    assert [[one.event.id for one in some] for some in read_all(path, ALL, 4)] == [ids(page) for page in forth]


def test_a_page_does_not_shift_when_new_visits_arrive(write: Write, tmp_path: Path) -> None:
    path = write(visits(6))
    second = read_page(path, ALL, 2).older
    store = EventStore(path)
    for event in visits(3, first=6):
        store.write(event, CROP)
    store.close()
    assert ids(read_page(path, ALL, 2, before=second)) == ["3", "2"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (EventFilter(camera="gate"), "dcba"),
        (EventFilter(camera="Gate"), ""),
        (EventFilter(make="bmw"), "cb"),
        (EventFilter(make="bm"), ""),
        (EventFilter(model="series 3"), "b"),
        (EventFilter(name="2012 bmw"), "b"),
        (EventFilter(name="ÉLAN"), "d"),
        (EventFilter(name="%"), ""),
        (EventFilter(levels=("unknown",)), "ea"),
        (EventFilter(levels=("unknown", "make"), camera="gate"), "ca"),
        (EventFilter(since=MOMENT + timedelta(seconds=1), until=MOMENT + timedelta(seconds=3)), "cb"),
        (EventFilter(make="bmw", name="nothing"), ""),
    ],
)
def test_each_filter_selects_the_matching_visits(write: Write, wanted: EventFilter, found: str) -> None:
    rows = [
        ("a", "gate", "unknown", "unknown", None, None),
        ("b", "gate", "year", "BMW 3 Series Sedan 2012", "BMW", "3 Series"),
        ("c", "gate", "make", "BMW", "BMW", None),
        ("d", "gate", "model", "Lotus Élan", "Lotus", "Élan"),
        ("e", "yard", "unknown", "unknown", None, None),
    ]
    path = write(
        [
            visit(id=id_, camera=camera, level=level, name=name, make=make, model=model,
                  started_at=MOMENT + timedelta(seconds=place))
            for place, (id_, camera, level, name, make, model) in enumerate(rows)
        ]
    )  # fmt: skip
    assert "".join(ids(read_page(path, wanted, 10))) == found
    assert count(path, wanted, 10) == len(found)
    assert sum(tally(path, wanted, "level").values()) == sum(tally_times(path, wanted).values()) == len(found)
    assert choices(path, "make") == ["BMW", "Lotus"]
    assert choices(path, "camera") == ["gate", "yard"]


def test_counting_stops_at_its_limit(write: Write) -> None:
    path = write(visits(9))
    assert [count(path, ALL, most) for most in (5, 9, 10)] == [5, 9, 9]


def test_tallies_count_each_value_and_each_quarter_of_an_hour(write: Write) -> None:
    start = datetime(2025, 3, 1, 12, 14, 59, tzinfo=UTC)
    later = (("a", 0, "BMW"), ("b", 1, "BMW"), ("c", 2, "Audi"), ("d", 3600, None))
    path = write([visit(id=name, make=make, started_at=start + timedelta(seconds=s)) for name, s, make in later])
    assert list(tally(path, ALL, "make").items()) == [("BMW", 2), (None, 1), ("Audi", 1)]
    assert tally_times(path, ALL) == {
        datetime(2025, 3, 1, 12, 0, tzinfo=UTC): 1,
        datetime(2025, 3, 1, 12, 15, tzinfo=UTC): 2,
        datetime(2025, 3, 1, 13, 0, tzinfo=UTC): 1,
    }


def test_a_visit_is_found_by_its_whole_id(write: Write) -> None:
    path = write(visits(12))
    found = read_one(path, "1")
    assert found is not None
    assert found.event.id == "1"
    assert read_one(path, "") is None


def test_unreadable_visits_are_skipped_while_paging(write: Write) -> None:
    path = write(visits(5))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE visits SET event = '{}' WHERE id IN ('3', '2')")
    connection.close()
    assert [[one.event.id for one in some] for some in read_all(path, ALL, 2)] == [["4"], ["1"], ["0"]]
    assert read_one(path, "3") is None


def test_the_queries_use_the_indexes(tmp_path: Path) -> None:
    """Without indexes, each page would scan all visits and their JSON."""
    store = EventStore(tmp_path / "events.sqlite")
    store.open()
    store.close()
    connection = sqlite3.connect(tmp_path / "events.sqlite")
    for statement, index in {
        "SELECT event FROM visits WHERE (started_us, rowid) < (1, 1) ORDER BY started_us DESC, rowid DESC": "SEARCH",
        "SELECT count(*) FROM visits WHERE +make = 'BMW' AND level = 'year' AND +camera = 'gate'": "COVERING INDEX",
        "SELECT min(make) FROM visits WHERE make > 'BMW'": "COVERING INDEX visits_by_make",
    }.items():
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert index in plan, plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan, plan
    connection.close()


def test_a_missing_store_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    assert read_page(path, ALL, 5) == VisitPage()
    assert (count(path, ALL, 5), choices(path, "make"), tally(path, ALL, "make"), tally_times(path, ALL)) == (
        0,
        [],
        {},
        {},
    )
    assert list(read_all(path, ALL)) == []
    assert read_one(path, "a") is None
    path.write_bytes(b"")
    assert read_page(path, ALL, 5) == VisitPage()
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match="cannot read the store"):
        read_page(path, ALL, 5)


@pytest.mark.parametrize(
    "text", ["", "1", "1.", ".1", "1.x", "1.-1", "1.1.1", "9" * 41, f"{2**63}.1", "1 .2", "１.１x"]
)
def test_invalid_page_cursors_are_refused(text: str) -> None:
    assert PageCursor.parse(str(PageCursor(-5, 7))) == PageCursor(-5, 7)
    with pytest.raises(ValueError, match="invalid page cursor"):
        PageCursor.parse(text)
