"""Queries for the web page whose cost hardly grows with the store: pages of visits, counts, choices and tallies.

They rely on indexes that `watch` adds when it opens the store. A store last written by an older version is read
without them.
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
_INDEXED = 3  # first schema version with an index per column
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_QUARTER_US = 15 * 60 * 10**6  # a quarter of an hour; hours and days of every time zone start on one


@dataclass(frozen=True, order=True)
class PageCursor:
    """The position of a visit in the order by start time and row."""

    started_us: int
    row: int

    def __str__(self) -> str:
        return f"{self.started_us}.{self.row}"

    @classmethod
    def parse(cls, text: str) -> PageCursor:
        """Parse the output of `str`.

        Raises:
            ValueError: the cursor is invalid.
        """
        started, dot, row = text.partition(".")
        if not (dot and len(text) <= 40 and started.removeprefix("-").isdecimal() and row.isdecimal()):
            raise ValueError(f"invalid page cursor: {text!r}")
        cursor = cls(int(started), int(row))
        if max(abs(cursor.started_us), cursor.row) >= 2**63:  # SQLite's integers
            raise ValueError(f"invalid page cursor: {text!r}")
        return cursor


@dataclass(frozen=True)
class VisitPage:
    """A page of visits, newest first, and the cursors of the pages with older and newer visits, or None."""

    visits: tuple[StoredVisit, ...] = ()
    older: PageCursor | None = None
    newer: PageCursor | None = None


def read_page(
    path: Path, wanted: EventFilter, size: int, *, before: PageCursor | None = None, after: PageCursor | None = None
) -> VisitPage:
    """Return the newest visits, or those before or after a cursor.

    Args:
        path: the store.
        wanted: which visits; its limit is ignored.
        size: maximum number of visits.
        before: return the visits just older than this.
        after: return the visits just newer than this.

    Raises:
        InputError: the store cannot be read.
    """
    with _reading(path) as connection:
        if connection is None:
            return VisitPage()
        where, values = _condition(connection, wanted)
        if (cursor := after or before) is not None:
            where += f" AND (started_us, rowid) {'>' if after else '<'} (?, ?)"
            values += [cursor.started_us, cursor.row]
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
    first, last = (PageCursor(*row[:2]) for row in (rows[0], rows[-1]))
    return VisitPage(
        tuple(visit for row in rows if (visit := stored_visit(*row[2:])) is not None),
        older=last if more or after is not None else None,
        newer=first if (after is not None and more) or before is not None else None,
    )


def read_all(path: Path, wanted: EventFilter, size: int = 500) -> Iterator[tuple[StoredVisit, ...]]:
    """Yield all selected visits, newest first, in batches of `size`; the store may be written meanwhile.

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
    """Return the visit with the id `visit`, or None.

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
    """Return the number of selected visits; counting stops at `most`.

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
    """Return the distinct values of a column, sorted.

    Raises:
        InputError: the store cannot be read.
    """
    with _reading(path) as connection:
        return [] if connection is None else sorted(_distinct(connection, column), key=str.casefold)


def tally(path: Path, wanted: EventFilter, column: Column) -> dict[str | None, int]:
    """Return the number of visits for each value of a column, most frequent first.

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
    """Return the number of visits that started in each quarter of an hour, in order; empty quarters are omitted.

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
    """Yield a connection, or None if nothing was stored yet."""
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

    There are few makes, models and names: those that match, ignoring case, are found first and passed to SQL. A `+`
    prevents SQLite from using a single-column index, which would read and sort all rows of a common make.
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
    """Return the distinct values of a column, with one index lookup per value."""
    statement = (
        f"WITH RECURSIVE found(value) AS (SELECT min({column}) FROM visits UNION ALL "
        f"SELECT (SELECT min({column}) FROM visits WHERE {column} > value) FROM found WHERE value IS NOT NULL) "
        "SELECT value FROM found WHERE value IS NOT NULL"
    )
    if schema_version(connection) < _INDEXED:
        statement = f"SELECT DISTINCT {column} FROM visits WHERE {column} IS NOT NULL"
    return [value for (value,) in connection.execute(statement)]
