"""The application's SQLite files, which survive power cuts, full disks and damage.

A file has the application's mark and a schema version (`user_version`), and is upgraded by the pending
migrations. It is in write-ahead mode: readers never block the writer, and a killed process leaves nothing to
repair. Every commit is flushed to the disk (`synchronous=FULL`): a power cut loses nothing that was committed. A
damaged file is renamed, never overwritten. A file that was moved or deleted is recreated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.files import identity, path_aside
from twincar_edge.runtime.storage.disks import NO_SPACE, SameDisk

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_APPLICATION_ID = 0x54574E45  # "TWNE"
_LOG_BYTES = 2**20
_MAGIC = b"SQLite format 3\0"
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class DatabaseError(TwincarError):
    """A database cannot be read or written now: the disk is full or failing, or another process locks it."""


class Database:
    """One database file, opened when it is first used and replaced by a new one when it is damaged.

    A damaged file is kept as `<name>.corrupt-<time>`. Threads may share a database; they take turns.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        what: str,
        *,
        alone: bool = False,
        on_open: Callable[[sqlite3.Connection], None] = lambda _connection: None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            path: the file; its folder is made.
            migrations: the nth script takes the schema from version n to n + 1.
            what: what the file is, for messages, such as "store".
            alone: no other process ever opens the file. It then needs no shared memory, and opens on a full disk too.
            on_open: called after each opening, so that the owner can load its state.
        """
        self.path = path
        self._migrations = migrations
        self._what = what
        self._alone = alone
        self._on_open = on_open
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._disk = SameDisk(path.parent)
        self._place: tuple[int, int] | None = None  # the identity of the open file

    def open(self) -> None:
        """Open the file, or make it.

        Raises:
            InputError: the file is not ours, of a newer version, or not writable.
            DatabaseError: it cannot be opened now.
        """
        self._run(lambda _connection: None)

    def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return what `work` returns for the connection, which is opened if need be; after damage, `work` runs again.

        Raises:
            DatabaseError: the disk is full or failing, or another process locks or has replaced the file.
        """
        try:
            return self._run(work)
        except InputError as error:
            raise DatabaseError(f"cannot use the {self._what}: {error}") from error

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._disconnect()

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._lock:
            try:
                try:
                    return work(self._current())
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    self._set_aside(error)
                return work(self._connect())
            except (sqlite3.Error, OSError) as error:
                raise DatabaseError(f"cannot use the {self._what} {self.path}: {error}") from error

    def _current(self) -> sqlite3.Connection:
        """Return a connection to the file at the path: SQLite would continue to write to a deleted one."""
        if self._connection is not None and identity(self.path) != self._place:
            logger.warning("the %s %s was moved or deleted: creating a new one", self._what, self.path)
            # SQLite leaves the log of a moved file where it is: its visits belong to that file, not to the next one.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._disconnect()
        return self._connection or self._connect()

    def _connect(self) -> sqlite3.Connection:
        self._disk.check()
        connection = _open(self.path, self._migrations, alone=self._alone)
        try:
            self._place = identity(self.path)
            self._on_open(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_aside(self, error: sqlite3.Error) -> None:
        self._disconnect()
        aside = _rename_damaged(self.path)
        logger.warning(
            "the %s %s is damaged (%s): kept as %s, creating a new one; `sqlite3 %s .recover` reads what is left",
            self._what,
            self.path,
            error,
            aside.name,
            aside,
        )


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a block as one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # on a full disk, SQLite has already rolled back
            connection.execute("ROLLBACK")
        raise


def open_read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads. The writer, if there is one, is not blocked.

    Raises:
        InputError: the file was not made by twincar-edge.
        sqlite3.Error: it cannot be read.
    """
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=2.0)
    try:
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
        except sqlite3.OperationalError:
            # There is no shared memory to use where the folder is not writable and no process has the file open.
            if path.with_name(path.name + "-wal").exists():
                raise
            connection.close()
            connection = sqlite3.connect(f"{uri}?immutable=1", uri=True)
            (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION_ID and (application or has_tables(connection)):
            raise InputError(f"cannot read {path}: this SQLite file was not made by twincar-edge")
    except BaseException:
        connection.close()
        raise
    return connection


def is_in_use(path: Path) -> bool:
    """Return whether a process, perhaps this one, has a database open that no other may open (`alone`)."""
    uri = path.absolute().as_uri()
    try:
        with contextlib.closing(sqlite3.connect(f"{uri}?mode=rw", uri=True, timeout=0)) as connection:
            has_tables(connection)
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    return False


def has_tables(connection: sqlite3.Connection) -> bool:
    """Return whether a database has any table; a process that is killed during creation leaves none.

    Raises:
        sqlite3.Error: the file cannot be read, or is damaged.
    """
    try:
        return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    except UnicodeDecodeError as error:  # SQLite's message quotes a damaged schema
        damage = sqlite3.DatabaseError("malformed database schema")
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage from error


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error says that the file itself is broken; errors raised by Python have no code."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF in _DAMAGE


def _rename_damaged(path: Path) -> Path:
    """Rename a damaged file and its log to `<name>.corrupt-<time>`, and return the new path.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path_aside(path, "corrupt")
    rename_database(path, aside)
    return aside


def rename_database(path: Path, target: Path) -> None:
    """Rename a closed database and its log, which SQLite needs under the same name.

    Raises:
        OSError: it cannot be renamed.
    """
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    path.rename(target)


def _open(path: Path, migrations: Sequence[str], *, alone: bool) -> sqlite3.Connection:
    """Return a connection for writing that may move between threads, one at a time.

    Raises:
        InputError: the file is not ours, of a newer version, or not writable.
        sqlite3.Error, OSError: it is damaged, or cannot be opened now.
    """
    try:
        path.parent.mkdir(0o750, parents=True, exist_ok=True)
        _require_ours(path)
    except FileExistsError as error:
        raise InputError(f"cannot open {path}: {path.parent} exists, but is not a folder") from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise InputError(f"cannot open {path}: {error.strerror}") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"cannot open {path}: not writable")
    with contextlib.suppress(OSError):  # SQLite says why; its log gets the same rights
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
    try:
        if alone:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        _migrate(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _require_ours(path: Path) -> None:
    """Refuse a file that was never a database: it must not be renamed as damaged."""
    if not path.exists():
        return
    if not path.is_file():  # opening a pipe would block
        raise InputError(f"cannot open {path}: not a regular file")
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start not in (b"", _MAGIC) and start.strip(b"\0"):  # a power cut leaves zeros, which is damage
        raise InputError(f"cannot open {path}: not an SQLite file")


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    begun = has_tables(connection)
    if begun and application != _APPLICATION_ID:
        raise InputError(f"cannot open {path}: this SQLite file was not made by twincar-edge")
    if version > len(migrations):
        raise InputError(f"cannot open {path}: written by a newer twincar-edge (schema version {version})")
    if not begun:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # A log of 0.25 MB instead of 4 MB, to save room on a nearly full disk.
    connection.execute("PRAGMA wal_autocheckpoint=64")
    # Truncate a log that a slow reader has let grow.
    connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
    if version == len(migrations):
        return
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have come first
        connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        for script in migrations[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(migrations)}")
