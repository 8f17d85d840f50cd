"""Events that wait on disk until their receiver takes them: one SQLite file a sink, in order, bounded."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.runtime.storage.database import Database, DatabaseError, transaction

logger = logging.getLogger(__name__)

SPOOL_LIMIT = 50_000
_MIGRATIONS = (
    """
    CREATE TABLE waiting (number INTEGER PRIMARY KEY, event TEXT NOT NULL);
    CREATE TABLE refused (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, reason TEXT NOT NULL,
                          event TEXT NOT NULL)
    """,
)


class Spool:
    """A queue on disk, ordered by event number. Threads may share it.

    Above `limit` events the oldest are removed, and `add` returns how many. Events that the receiver refuses are set
    aside in the same file, as many at most. A damaged file is renamed and a new one begun.

    All methods but `open` and `close` raise `DatabaseError` while the disk is full or failing, and change nothing then.

    Attributes:
        waiting: events that wait.
        aside: events that are set aside.
        last_number: number of the last event that was waiting when the file was opened.
    """

    def __init__(self, path: Path, limit: int = SPOOL_LIMIT) -> None:
        """Keep at most `limit` events in the file `path`, which no other process opens."""
        self.path = path
        self.waiting = 0
        self.aside = 0
        self.last_number = 0
        self._limit = limit
        self._left_through = 0
        self._database = Database(path, _MIGRATIONS, "spool", alone=True, on_open=self._count)

    def open(self) -> None:
        """Open or make the file. If the disk is full or failing, each later use tries again.

        Raises:
            InputError: the file is not ours, not writable, or in use by another process.
        """
        try:
            self._database.open()
        except DatabaseError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise InputError(str(error)) from error
            if self.path.exists() and self.path.stat().st_size:
                # What is in the file keeps its numbers; new events get numbers above any of them.
                self.last_number = time.time_ns() // 1000
            logger.warning("%s", error)

    def close(self) -> None:
        """Close the file; its events keep waiting."""
        self._database.close()

    def add(self, entries: Sequence[tuple[int, str]]) -> int:
        """Append events; they are on disk when this returns. Return how many old ones were removed for them.

        Args:
            entries: pairs of number and event as JSON, in order. Numbers that are there already are left out.
        """

        def run(connection: sqlite3.Connection) -> int:
            with transaction(connection):
                before = connection.total_changes
                connection.executemany("INSERT OR IGNORE INTO waiting VALUES (?, ?)", entries)
                added = connection.total_changes - before
                surplus = max(0, self.waiting + added - self._limit)
                connection.execute(
                    "DELETE FROM waiting WHERE number IN (SELECT number FROM waiting ORDER BY number LIMIT ?)",
                    [surplus],
                )
            self.waiting += added - surplus
            return surplus

        return self._database.run(run)

    def first(self, after: int) -> tuple[int, str] | None:
        """Return number and JSON of the oldest event with a number above `after`, or None."""
        query = "SELECT number, event FROM waiting WHERE number > ? ORDER BY number LIMIT 1"
        found: tuple[int, str] | None = self._database.run(
            lambda connection: connection.execute(query, [after]).fetchone()
        )
        return found

    def leave(self, through: int) -> None:
        """Keep the events with numbers up to `through`, which cannot be read now, for the next opening."""
        self._left_through = through

    def remove(self, through: int) -> None:
        """Remove the events with numbers up to `through`. After a failure, the next removal takes them too."""

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                gone = connection.execute(
                    "DELETE FROM waiting WHERE number > ? AND number <= ?", [self._left_through, through]
                ).rowcount
            self.waiting -= gone
            if gone and not self.waiting:
                # The space that a long outage took goes back to the disk.
                connection.execute("PRAGMA incremental_vacuum").fetchall()

        self._database.run(run)

    def set_aside(self, refused: Sequence[tuple[str, str]], now: datetime | None = None) -> None:
        """Keep events that the receiver does not take: pairs of reason and event as JSON, oldest first."""
        moment = (now or datetime.now(UTC)).isoformat()
        rows = [(moment, reason, event) for reason, event in refused]

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.executemany("INSERT INTO refused (at, reason, event) VALUES (?, ?, ?)", rows)
                surplus = max(0, self.aside + len(rows) - self._limit)
                connection.execute(
                    "DELETE FROM refused WHERE number IN (SELECT number FROM refused ORDER BY number LIMIT ?)",
                    [surplus],
                )
            self.aside += len(rows) - surplus

        self._database.run(run)

    def first_aside(self, after: int, through: int, since: datetime | None = None) -> tuple[int, str] | None:
        """Return number and JSON of the oldest event set aside with a number above `after` and up to `through`.

        `since` leaves out what was set aside before.
        """
        query = "SELECT number, event FROM refused WHERE number > ? AND number <= ? AND at >= ? ORDER BY number LIMIT 1"
        values = [after, through, "" if since is None else since.astimezone(UTC).isoformat()]
        found: tuple[int, str] | None = self._database.run(
            lambda connection: connection.execute(query, values).fetchone()
        )
        return found

    def last_aside(self) -> int:
        """Return the number of the event that was set aside last, or 0."""
        query = "SELECT coalesce(max(number), 0) FROM refused"
        return int(self._database.run(lambda connection: connection.execute(query).fetchone()[0]))

    def forget_aside(self, number: int) -> None:
        """Remove an event that was set aside."""

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                gone = connection.execute("DELETE FROM refused WHERE number = ?", [number]).rowcount
            self.aside -= gone

        self._database.run(run)

    def refused(self) -> list[tuple[str, str]]:
        """Return reason and JSON of the events that are set aside, oldest first."""
        query = "SELECT reason, event FROM refused ORDER BY number"
        return self._database.run(lambda connection: connection.execute(query).fetchall())

    def _count(self, connection: sqlite3.Connection) -> None:
        query = "SELECT count(*), coalesce(max(number), 0) FROM waiting"
        self.waiting, self.last_number = connection.execute(query).fetchone()
        (self.aside,) = connection.execute("SELECT count(*) FROM refused").fetchone()
