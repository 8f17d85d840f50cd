"""Events that wait on disk until their receiver takes them: one SQLite file a sink, in order, bounded."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.runtime.storage.database import is_damage, open_database, set_aside, transaction

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

SPOOL_LIMIT = 50_000
REFUSED_LIMIT = 1_000
_MIGRATIONS = (
    """
    CREATE TABLE waiting (number INTEGER PRIMARY KEY, event TEXT NOT NULL);
    CREATE TABLE refused (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, reason TEXT NOT NULL,
                          event TEXT NOT NULL)
    """,
)


class SpoolError(TwincarError):
    """The spool cannot be read or written now."""


class Spool:
    """A queue on disk. Numbers rise with time; threads may share it.

    At `limit` events the oldest make room, and `add` says how many: never silently. Events that their receiver refuses
    are kept apart, the newest thousand of them.
    """

    def __init__(self, path: Path, limit: int = SPOOL_LIMIT) -> None:
        """Keep at most `limit` events in the file `path`, which nobody else opens."""
        self.path = path
        self.waiting = 0
        self.last_number = 0
        self._limit = limit
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or make the file, and learn what waits in it: `waiting` events, up to `last_number`.

        A damaged file is set aside. On a full disk a new file cannot be made; `add` tries again.

        Raises:
            InputError: the file is not ours, or may not be written, or another process has it.
        """
        with self._lock:
            try:
                self._connect()
            except SpoolError as error:
                if self.path.exists() and self.path.stat().st_size:
                    raise InputError(str(error)) from error
                logger.warning("%s", error)

    def close(self) -> None:
        """Close the file; what waits in it waits on."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def add(self, entries: Sequence[tuple[int, str]]) -> int:
        """Put events behind those that wait; on disk when this returns. Return how many old ones made room.

        Args:
            entries: pairs of number and event as JSON, in order.

        Raises:
            SpoolError: the disk is full or failing; nothing was written.
        """
        return self._run(lambda connection: self._add(connection, entries))

    def first(self, after: int) -> tuple[int, str] | None:
        """Return the oldest event behind number `after`, with its number, or None.

        Raises:
            SpoolError: the disk is failing.
        """
        query = "SELECT number, event FROM waiting WHERE number > ? ORDER BY number LIMIT 1"
        found: tuple[int, str] | None = self._run(lambda connection: connection.execute(query, [after]).fetchone())
        return found

    def forget(self, through: int) -> None:
        """Remove the events up to number `through`: they are delivered.

        Raises:
            SpoolError: the disk is full or failing. They are still there, and go with the next that can be removed.
        """
        self._run(lambda connection: self._forget(connection, through))

    def refuse(self, event: str, reason: str, now: datetime | None = None) -> None:
        """Keep an event, as JSON, that its receiver will never take, and why.

        Raises:
            SpoolError: the disk is full or failing.
        """
        moment = (now or datetime.now(UTC)).isoformat()

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute("INSERT INTO refused (at, reason, event) VALUES (?, ?, ?)", [moment, reason, event])
                connection.execute(
                    "DELETE FROM refused WHERE number <= (SELECT max(number) FROM refused) - ?", [REFUSED_LIMIT]
                )

        self._run(run)

    def refused(self) -> list[tuple[str, str]]:
        """Return reason and event, as JSON, of what was refused, oldest first."""
        query = "SELECT reason, event FROM refused ORDER BY number"
        return self._run(lambda connection: connection.execute(query).fetchall())

    def _add(self, connection: sqlite3.Connection, entries: Sequence[tuple[int, str]]) -> int:
        with transaction(connection):
            before = connection.total_changes
            connection.executemany("INSERT OR IGNORE INTO waiting VALUES (?, ?)", entries)
            added = connection.total_changes - before
            surplus = max(0, self.waiting + added - self._limit)
            if surplus:
                connection.execute(
                    "DELETE FROM waiting WHERE number IN (SELECT number FROM waiting ORDER BY number LIMIT ?)",
                    [surplus],
                )
        self.waiting += added - surplus
        return surplus

    def _forget(self, connection: sqlite3.Connection, through: int) -> None:
        with transaction(connection):
            gone = connection.execute("DELETE FROM waiting WHERE number <= ?", [through]).rowcount
        self.waiting -= gone
        if gone and not self.waiting:
            connection.execute("PRAGMA incremental_vacuum").fetchall()  # a long outage's space goes back to the disk

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do something with the file; one that turns out damaged is set aside, and the work is done on a new one."""
        with self._lock, self._explained():
            try:
                return work(self._connection or self._connect())
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._set_aside(error)
            return work(self._connect())

    def _connect(self) -> sqlite3.Connection:
        with self._explained():
            try:
                connection = open_database(self.path, _MIGRATIONS, alone=True)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._set_aside(error)
                connection = open_database(self.path, _MIGRATIONS, alone=True)
            query = "SELECT count(*), coalesce(max(number), 0) FROM waiting"
            self.waiting, self.last_number = connection.execute(query).fetchone()
            self._connection = connection
            return connection

    def _set_aside(self, error: sqlite3.Error) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        aside = set_aside(self.path)
        logger.warning("%s is damaged (%s): kept as %s, a new one is begun", self.path, error, aside.name)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SpoolError(f"cannot use the spool {self.path}: {error}") from error
