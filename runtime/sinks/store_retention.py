"""Deletes the oldest visits of a store above its retention limits."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from twincar_edge.runtime.sinks.retention import SWEEP_S, AgeGuard, Limits
from twincar_edge.runtime.storage.database import Database, transaction

_BATCH = 1000  # rows per transaction, to limit the size of the log
_OLDEST = "SELECT rowid FROM visits {where} ORDER BY started_us LIMIT ?"


class StoreRetention:
    """Enforces the limits of a store with an hourly sweep."""

    def __init__(
        self,
        database: Database,
        limits: Limits,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Enforce `limits` on `database`; `clock` returns the time, `monotonic` seconds that never go back."""
        self._database = database
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._guard = AgeGuard(f"visits in {database.path}", monotonic)
        self._swept_s: float | None = None

    def sweep(self) -> None:
        """Delete visits above the limits, if there are limits and a sweep is due.

        Raises:
            DatabaseError: the store cannot be read or written now.
        """
        now_s = self._monotonic()
        if self._limits == Limits() or (self._swept_s is not None and now_s - self._swept_s < SWEEP_S):
            return
        if self._limits.age is not None:
            before_us = int((self._clock() - self._limits.age).timestamp() * 1e6)
            expired, total = self._database.run(lambda connection: _count(connection, before_us))
            if self._guard.allows(expired, total):
                self._delete("WHERE started_us < ?", [before_us], expired)
        if self._limits.size_bytes is not None:
            limit_bytes = self._limits.size_bytes
            while rows := self._database.run(lambda connection: _surplus(connection, limit_bytes)):
                self._delete("", [], rows)
        self._swept_s = now_s

    def _delete(self, where: str, values: list[int], rows: int) -> None:
        """Delete the oldest `rows` rows, and return their space to the file system."""
        statement = f"DELETE FROM visits WHERE rowid IN ({_OLDEST.format(where=where)})"

        def run(most: int, connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute(statement, [*values, most])
            connection.executescript("PRAGMA incremental_vacuum")  # `execute` would stop after one page

        while rows > 0:
            self._database.run(partial(run, min(rows, _BATCH)))
            rows -= _BATCH


def _count(connection: sqlite3.Connection, before_us: int) -> tuple[int, int]:
    query = "SELECT (SELECT count(*) FROM visits WHERE started_us < ?), (SELECT count(*) FROM visits)"
    found: tuple[int, int] = connection.execute(query, [before_us]).fetchone()
    return found


def _surplus(connection: sqlite3.Connection, limit_bytes: int) -> int:
    """Estimate how many rows exceed the size limit; 0 if the store is within it."""
    pages, free, page_bytes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    used = (pages - free) * page_bytes
    (rows,) = connection.execute("SELECT count(*) FROM visits").fetchone()
    return 0 if used <= limit_bytes else math.ceil(rows * (1 - limit_bytes / used))
