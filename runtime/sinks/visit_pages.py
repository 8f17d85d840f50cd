"""Queries of the store whose cost does not grow with it, or little: a page of visits, a count, choices and tallies.

They are quick by indexes that `watch` adds to the store when it opens it. A store that an older version wrote last is
read without them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from twincar_edge.errors import InputError
from twincar_edge.files import is_file
from twincar_edge.runtime.sinks.store import EventFilter, StoredVisit, stored_visit
from twincar_edge.runtime.sinks.store_schema import microseconds, saved_columns, schema_version
from twincar_edge.runtime.storage.database import has_tables, open_read_only

Column = Literal["camera", "make", "model", "name", "level"]
_INDEXED = 3  # the version of the store that has an index of each column
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_QUARTER_US = 15 * 60 * 10**6  # every time zone's hours and days begin with one


@dataclass(frozen=True, order=True)
class Place:
    """Where a visit is in the order by time; visits that began at the same time follow in the order of their rows."""

    started_us: int
    row: int

    def __str__(self) -> str:
        return f"{self.started_us}.{self.row}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what `str` gives.

        Raises:
            ValueError: the text is no place.
        """
        started, dot, row = text.partition(".")
        if not (dot and len(text) <= 40 and started.removeprefix("-").isdecimal() and row.isdecimal()):
            raise ValueError(f"no place in the list of visits: {text!r}")
        place = cls(int(started), int(row))
        if max(abs(place.started_us), place.row) >= 2**63:  # SQLite's integers
            raise ValueError(f"no place in the list of visits: {text!r}")
        return place


@dataclass(frozen=True)
class VisitPage:
    """Some visits, newest first, and the places before which older ones and after which newer ones follow, or None."""

    visits: tuple[StoredVisit, ...] = ()
    older: Place | None = None
    newer: Place | None = None


def read_page(
    path: Path, wanted: EventFilter, size: int, *, before: Place | None = None, after: Place | None = None
) -> VisitPage:
    """Return the newest visits, or those that come next in the order by time.

    Args:
        path: the store.
        wanted: which visits; its limit does not count.
        size: at most so many.
        before: only older ones.
        after: only newer ones, the oldest of them.

    Raises:
        InputError: the store cannot be read.
    """
    with _reading(path) as connection:
        if connection is None:
            return VisitPage()
        where, values = _condition(connection, wanted)
        if (place := after or before) is not None:
            where += f" AND (started_us, rowid) {'>' if after else '<'} (?, ?)"
            values += [place.started_us, place.row]
        order = "ASC" if after else "DESC"
        statement = (
            f"SELECT started_us, rowid, event, {saved_columns(connection)} FROM visits WHERE {where} "
            f"ORDER BY started_us {order}, rowid {order} LIMIT ?"
        )
        rows = connection.execute(statement, [*values, size + 1]).fetchall()
    more = len(rows) > size
    rows = rows[:size]
    if after is not None:
        rows.reverse()
    if not rows:
        return VisitPage()
    first, last = (Place(*row[:2]) for row in (rows[0], rows[-1]))
    return VisitPage(
        tuple(visit for row in rows if (visit := stored_visit(*row[2:])) is not None),
        older=last if more or after is not None else None,
        newer=first if (after is not None and more) or before is not None else None,
    )


def read_all(path: Path, wanted: EventFilter, size: int = 500) -> Iterator[tuple[StoredVisit, ...]]:
    """Yield all of the visits, newest first and some at a time; the store may be written meanwhile.

    Raises:
        InputError: see `read_page`.
    """
    page = read_page(path, wanted, size)
    while page.visits or page.older is not None:
        yield page.visits
        if page.older is None:
            return
        page = read_page(path, wanted, size, before=page.older)


def read_one(path: Path, visit: str) -> StoredVisit | None:
    """Return the visit with this id, or None.

    Raises:
        InputError: the store cannot be read.
    """
    with _reading(path) as connection:
        if connection is None:
            return None
        statement = f"SELECT event, {saved_columns(connection)} FROM visits WHERE id = ?"
        row = connection.execute(statement, [visit]).fetchone()
    return None if row is None else stored_visit(*row)


def count(path: Path, wanted: EventFilter, most: int) -> int:
    """Return how many visits there are; counting stops at `most`.

    Raises:
        InputError: the store cannot be read.
    """
    with _reading(path) as connection:
        if connection is None:
            return 0
        where, values = _condition(connection, wanted)
        statement = f"SELECT count(*) FROM (SELECT 1 FROM visits WHERE {where} LIMIT ?)"
        (found,) = connection.execute(statement, [*values, most]).fetchone()
    return int(found)


def choices(path: Path, column: Column) -> list[str]:
    """Return which values a column has, sorted.

    Raises:
        InputError: the store cannot be read.
    """
    with _reading(path) as connection:
        return [] if connection is None else sorted(_distinct(connection, column), key=str.casefold)


def tally(path: Path, wanted: EventFilter, column: Column) -> dict[str | None, int]:
    """Return how many visits have each value of a column, most first.

    Raises:
        InputError: the store cannot be read.
    """
    with _reading(path) as connection:
        if connection is None:
            return {}
        where, values = _condition(connection, wanted)
        return dict(
            connection.execute(
                f"SELECT {column}, count(*) FROM visits WHERE {where} GROUP BY {column} ORDER BY 2 DESC, 1", values
            )
        )


def tally_times(path: Path, wanted: EventFilter) -> dict[datetime, int]:
    """Return how many visits began in each quarter of an hour in which any did, in the order of time.

    Raises:
        InputError: the store cannot be read.
    """
    with _reading(path) as connection:
        if connection is None:
            return {}
        where, values = _condition(connection, wanted)
        rows = connection.execute(
            f"SELECT started_us / {_QUARTER_US}, count(*) FROM visits WHERE {where} GROUP BY 1 ORDER BY 1", values
        )
        return {_EPOCH + timedelta(microseconds=quarter * _QUARTER_US): found for quarter, found in rows}


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Give a connection, or None where nothing has been stored yet."""
    if not is_file(path):
        yield None
        return
    try:
        with closing(open_read_only(path)) as connection:
            yield connection if has_tables(connection) else None
    except sqlite3.Error as error:
        raise InputError(f"cannot read the store {path}: {error}") from error


def _condition(connection: sqlite3.Connection, wanted: EventFilter) -> tuple[str, list[Any]]:
    """Return the condition in SQL and its values.

    Makes, models and names are few: those that are alike, ignoring case, are found first, and SQLite compares rows.
    A `+` keeps it from an index of one column only: it would read the rows of a common make, and sort them.
    """
    conditions, values = ["1"], list[Any]()

    def add(condition: str, *more: Any) -> None:
        conditions.append(condition)
        values.extend(more)

    def add_any(column: Column, found: list[str]) -> None:
        add(f"+{column} IN (SELECT value FROM json_each(?))", json.dumps(found))

    if wanted.since is not None:
        add("started_us >= ?", microseconds(wanted.since))
    if wanted.until is not None:
        add("started_us < ?", microseconds(wanted.until))
    if wanted.camera is not None:
        add("+camera = ?", wanted.camera)
    if wanted.make is not None:
        make = wanted.make.casefold()
        add_any("make", [one for one in _distinct(connection, "make") if one.casefold() == make])
    parts: dict[Column, str | None] = {"model": wanted.model, "name": wanted.name}
    for column, text in parts.items():
        if text is not None:
            words = text.casefold().split()
            found = _distinct(connection, column)
            add_any(column, [one for one in found if all(word in one.casefold() for word in words)])
    if wanted.levels:
        add(f"level IN ({', '.join('?' * len(wanted.levels))})", *wanted.levels)
    return " AND ".join(conditions), values


def _distinct(connection: sqlite3.Connection, column: Column) -> list[str]:
    """Return the values of a column, by one look-up in its index for each."""
    statement = (
        f"WITH RECURSIVE found(value) AS (SELECT min({column}) FROM visits UNION ALL "
        f"SELECT (SELECT min({column}) FROM visits WHERE {column} > value) FROM found WHERE value IS NOT NULL) "
        "SELECT value FROM found WHERE value IS NOT NULL"
    )
    if schema_version(connection) < _INDEXED:
        statement = f"SELECT DISTINCT {column} FROM visits WHERE {column} IS NOT NULL"
    return [value for (value,) in connection.execute(statement)]
