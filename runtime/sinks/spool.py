"""The spool: a bounded queue of undelivered events on disk, one SQLite file per sink."""

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
# Not a migration, so that earlier versions can open the file.
_IDENTIFY = (
    "CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL)",
    "INSERT INTO identity SELECT hex(randomblob(16)) WHERE NOT EXISTS (SELECT 1 FROM identity)",
)
_SET_ALL_ASIDE = "INSERT INTO refused (at, reason, event) SELECT ?, ?, event FROM waiting ORDER BY number"


class Spool:
    """A queue on disk, ordered by event number. Threads may share it.

    Above `limit` events the oldest are removed; `add` returns how many. Events that the receiver refused are set aside
    in the same file, with the same limit. A damaged file is renamed and a new one created. If another spool is at the
    path later, as after a change of disks, its numbers may be those of this run's events: its queue is set aside.

    All methods except `open` and `close` raise `DatabaseError` while the disk is full or failing, and then change
    nothing.

    Attributes:
        waiting: number of events in the queue.
        aside: number of events set aside.
        last_number: number of the last queued event when the file was opened.
    """

    def __init__(self, path: Path, limit: int = SPOOL_LIMIT) -> None:
        """Store at most `limit` events in the file `path`, which only one process may open."""
        self.path = path
        self.waiting = 0
        self.aside = 0
        self.last_number = 0
        self._limit = limit
        self._deferred_through = 0
        self._identity: str | None = None
        self._database = Database(path, _MIGRATIONS, "spool", alone=True, on_open=self._count)

    def open(self) -> None:
        """Open or create the file. If the disk is full or failing, each later call retries.

        Raises:
            InputError: the file is not a spool, not writable, or in use by another process.
        """
        try:
            self._database.open()
        except DatabaseError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise InputError(str(error)) from error
            if self.path.exists() and self.path.stat().st_size:
                # New numbers must be above those in the file, which cannot be read now.
                self.last_number = time.time_ns() // 1000
            logger.warning("%s", error)

    def close(self) -> None:
        """Close the file; its events remain."""
        self._database.close()

    def add(self, entries: Sequence[tuple[int, str]]) -> int:
        """Append events and flush them to disk; return how many old ones were removed for them.

        Args:
            entries: pairs of number and event as JSON, in order. Existing numbers are skipped.
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

    def defer(self, through: int) -> None:
        """Leave the events up to `through`, which cannot be read now, for the next run."""
        self._deferred_through = through

    def remove(self, through: int) -> None:
        """Remove the events up to `through`, except deferred ones. After a failure, the next call removes them too."""

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                removed = connection.execute(
                    "DELETE FROM waiting WHERE number > ? AND number <= ?", [self._deferred_through, through]
                ).rowcount
            self.waiting -= removed
            if removed and not self.waiting:
                # Return the space of a long outage to the file system.
                connection.execute("PRAGMA incremental_vacuum").fetchall()

        self._database.run(run)

    def set_aside(self, refused: Sequence[tuple[str, str]], now: datetime | None = None) -> None:
        """Store events that the receiver refused: pairs of reason and event as JSON, oldest first."""
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

    def next_set_aside(self, after: int, through: int, since: datetime | None = None) -> tuple[int, str] | None:
        """Return number and JSON of the oldest event set aside with a number above `after`, at most `through`.

        With `since`, only events set aside at that time or later.
        """
        query = "SELECT number, event FROM refused WHERE number > ? AND number <= ? AND at >= ? ORDER BY number LIMIT 1"
        values = [after, through, "" if since is None else since.astimezone(UTC).isoformat()]
        found: tuple[int, str] | None = self._database.run(
            lambda connection: connection.execute(query, values).fetchone()
        )
        return found

    def last_set_aside(self) -> int:
        """Return the number of the event set aside last, or 0."""
        query = "SELECT coalesce(max(number), 0) FROM refused"
        return int(self._database.run(lambda connection: connection.execute(query).fetchone()[0]))

    def remove_set_aside(self, number: int) -> None:
        """Remove an event from those set aside."""

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                removed = connection.execute("DELETE FROM refused WHERE number = ?", [number]).rowcount
            self.aside -= removed

        self._database.run(run)

    def refused(self) -> list[tuple[str, str]]:
        """Return reason and JSON of the events set aside, oldest first."""
        query = "SELECT reason, event FROM refused ORDER BY number"
        return self._database.run(lambda connection: connection.execute(query).fetchall())

    def _count(self, connection: sqlite3.Connection) -> None:
        identity = _identity(connection)
        if self._identity is not None and identity != self._identity:
            with transaction(connection):
                moment = datetime.now(UTC).isoformat()
                found = connection.execute(_SET_ALL_ASIDE, [moment, "found in another spool"]).rowcount
                connection.execute("DELETE FROM waiting")
            if found:
                logger.warning(
                    "another spool was found at %s: its queue of %d set aside; `twincar-edge events resend` sends them",
                    self.path, found,
                )  # fmt: skip
        self._identity = identity
        query = "SELECT count(*), coalesce(max(number), 0) FROM waiting"
        self.waiting, self.last_number = connection.execute(query).fetchone()
        (self.aside,) = connection.execute("SELECT count(*) FROM refused").fetchone()


def _identity(connection: sqlite3.Connection) -> str | None:
    """Return what identifies the file, written when it is first opened; None if it was not, as on a full disk."""
    try:
        with transaction(connection):
            for statement in _IDENTIFY:
                connection.execute(statement)
    except sqlite3.OperationalError:
        return None
    return str(connection.execute("SELECT id FROM identity").fetchone()[0])
