"""Opening an SQLite file of ours so that it survives what a box on a pole goes through.

A file has the application's mark and a schema version (`user_version`), and is brought up to date by the migrations
that it has not seen. It is in write-ahead mode, where readers never stop the writer and a process that is killed leaves
nothing to repair, and every commit is flushed to the disk (`synchronous=FULL`): a power cut takes nothing that was
committed. A damaged file is set aside, never written over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from twincar_edge.errors import InputError

APPLICATION_ID = 0x54574E45  # "TWNE"
_MAGIC = b"SQLite format 3\0"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; errors of Python's own have none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error says that the file itself is broken."""
    return _code(error) in _DAMAGE


def set_aside(path: Path, now: datetime | None = None) -> Path:
    """Rename a damaged file and its log to `<name>.corrupt-<time>`, which is returned: nothing in it is lost.

    Raises:
        OSError: it cannot be renamed.
    """
    now = now or datetime.now(UTC)
    aside = path.with_name(f"{path.name}.corrupt-{now.astimezone(UTC):%Y%m%dT%H%M%S.%f}Z")
    for suffix in ("-wal", "-shm"):  # SQLite's recovery wants the log under the same name
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    path.rename(aside)
    return aside


def open_database(path: Path, migrations: Sequence[str], *, alone: bool = False) -> sqlite3.Connection:
    """Open a database of ours for writing, made or brought up to date as needed.

    The connection may move between threads, one at a time. Transactions begin with `transaction`.

    Args:
        path: the file; its folder is made.
        migrations: the nth script takes the schema from version n to n + 1.
        alone: nobody else ever opens the file: no shared memory is needed, so that it opens on a full disk too.

    Raises:
        InputError: the file is somebody else's or of a newer version, or it may not be written.
        sqlite3.Error, OSError: it is damaged (`is_damage`), or cannot be opened now: no space, another writer.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_ours(path)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        raise InputError(f"cannot open {path}: {error.strerror}") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"cannot open {path}: it may not be written")
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
    try:
        if alone:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        _migrate(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all of a block or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back already where the disk was full
            connection.execute("ROLLBACK")
        raise


def has_tables(connection: sqlite3.Connection) -> bool:
    """Return whether there is anything in a database; a process that was killed as it began one leaves none."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _require_ours(path: Path) -> None:
    """Refuse a file that never was a database: renaming somebody's picture as damaged would be no help."""
    if not path.exists():
        return
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"cannot open {path}: it is no file")
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start not in (b"", _MAGIC) and start.strip(b"\0"):  # a power cut leaves zeros, which is damage
        raise InputError(f"cannot open {path}: it is no SQLite file")


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    begun = has_tables(connection)
    if begun and application != APPLICATION_ID:
        raise InputError(f"cannot open {path}: this SQLite file was not made by twincar-edge")
    if version > len(migrations):
        raise InputError(
            f"cannot open {path}: it was written by a newer twincar-edge (its schema has version {version})"
        )
    if not begun:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # A log of a quarter of a megabyte in place of four: a disk that is nearly full has better uses for the room.
    connection.execute("PRAGMA wal_autocheckpoint=64")
    if version == len(migrations):
        return
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have come first
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        for script in migrations[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(migrations)}")
