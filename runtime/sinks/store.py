"""The store of visits: an SQLite file with one row a visit, which `watch` writes and `events` reads meanwhile."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import is_file
from twincar_edge.runtime.events import Event, Level
from twincar_edge.runtime.sinks.base import Crop, DeliveryError
from twincar_edge.runtime.storage.database import (
    APPLICATION_ID,
    has_tables,
    is_damage,
    open_database,
    set_aside,
    transaction,
)

logger = logging.getLogger(__name__)

# Times are microseconds since 1970, UTC; `event` is the newest event of the visit, as JSON.
_MIGRATIONS = (
    """
    CREATE TABLE visits (
        id TEXT PRIMARY KEY, started_us INTEGER NOT NULL, type TEXT NOT NULL, camera TEXT NOT NULL,
        level TEXT NOT NULL, name TEXT NOT NULL, make TEXT, model TEXT, event TEXT NOT NULL
    );
    CREATE INDEX visits_by_time ON visits (started_us)
    """,
)
_COLUMNS = ("id", "started_us", "type", "camera", "level", "name", "make", "model", "event")
# What is sent a second time after a restart must not take a visit that has ended back to its beginning.
_UPSERT = (
    f"INSERT INTO visits ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])} "
    "WHERE visits.type <> 'end' OR excluded.type = 'end'"
)


def _microseconds(moment: datetime) -> int:
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 10**6 + delta.microseconds


def _row(event: Event) -> tuple[Any, ...]:
    started_us, text = _microseconds(event.started_at), event.to_json()
    return (event.id, started_us, event.type, event.camera, event.level, event.name, event.make, event.model, text)


class EventStore:
    """A sink with one row a visit: `start` makes it, `update` and `end` write what is known by then over it.

    What turns out to have been no vehicle loses its row.

    An event is on the disk when `write` returns. A damaged file is set aside as `<name>.corrupt-<time>`, and a new one
    is begun: today's visits must not be lost for the sake of yesterday's, which `sqlite3 FILE .recover` brings back.
    """

    def __init__(self, path: Path) -> None:
        """Write to the file `path`, made when it is needed."""
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        """Open the file. A full disk is no reason to fail: `write` tries again.

        Raises:
            InputError: the file is not ours or of a newer version, or may not be written.
        """
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            logger.debug("cannot open %s yet: %s", self._path, error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self._close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write what is known of a visit.

        Raises:
            DeliveryError: the disk is full or failing, or another process holds the file.
        """
        row = None if event.false_positive else _row(event)
        try:
            try:
                self._put(event.id, row)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._set_aside(error)
                self._put(event.id, row)
        except (sqlite3.Error, OSError, InputError) as error:
            raise DeliveryError(f"cannot write the store {self._path}: {error}") from error

    def _put(self, visit: str, row: tuple[Any, ...] | None) -> None:
        connection = self._connection or self._open()
        with transaction(connection):
            if row is None:
                connection.execute("DELETE FROM visits WHERE id = ?", (visit,))
            else:
                connection.execute(_UPSERT, row)

    def _open(self) -> sqlite3.Connection:
        try:
            connection = open_database(self._path, _MIGRATIONS)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._set_aside(error)
            connection = open_database(self._path, _MIGRATIONS)
        self._connection = connection
        return connection

    def _set_aside(self, error: sqlite3.Error) -> None:
        self._close()
        aside = set_aside(self._path)
        logger.warning(
            "the store %s is damaged (%s): kept as %s, a new one is begun; `sqlite3 %s .recover` reads what is left",
            self._path,
            error,
            aside.name,
            aside,
        )

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(frozen=True)
class EventFilter:
    """Which visits are wanted. What is None or empty leaves none out.

    Attributes:
        since: those that began at this time or later.
        until: those that began before this time.
        camera: of this camera.
        make: of this make, in any case.
        model: with this in their model, in any case.
        name: with this in their name, in any case.
        levels: whose answer goes this far.
        limit: the newest so many.
    """

    since: datetime | None = None
    until: datetime | None = None
    camera: str | None = None
    make: str | None = None
    model: str | None = None
    name: str | None = None
    levels: tuple[Level, ...] = ()
    limit: int | None = None


# A filter's field -> its condition; `folded` is Python's casefold, as SQLite's own knows ASCII only.
_CONDITIONS = {
    "since": "started_us >= ?",
    "until": "started_us < ?",
    "camera": "camera = ?",
    "make": "folded(make) = folded(?)",
    "model": "instr(folded(model), folded(?)) > 0",
    "name": "instr(folded(name), folded(?)) > 0",
}


def query(
    path: Path, wanted: EventFilter | None = None, on_unreadable: Callable[[str], None] | None = None
) -> list[Event]:
    """Return the newest event of each visit that is wanted, by the time at which they began. See `read_events`.

    Raises:
        InputError: there is no such store, or it cannot be read.
    """
    return list(read_events(path, wanted, on_unreadable))


def read_events(
    path: Path, wanted: EventFilter | None = None, on_unreadable: Callable[[str], None] | None = None
) -> Iterator[Event]:
    """Give the newest event of each visit that is wanted, by the time at which they began.

    The file is opened for reading only, and whoever writes it is not held up.

    Args:
        path: the store.
        wanted: which visits; all of them, if not given.
        on_unreadable: gets a line for each row that this version cannot read, which is left out.

    Raises:
        InputError: there is no such store, or it cannot be read.
    """
    wanted = wanted or EventFilter()
    conditions, values = ["1"], []
    for field, condition in _CONDITIONS.items():
        value = getattr(wanted, field)
        if value is not None:
            conditions.append(condition)
            values.append(_microseconds(value) if isinstance(value, datetime) else value)
    if wanted.levels:
        conditions.append(f"level IN ({', '.join('?' * len(wanted.levels))})")
        values += wanted.levels
    limit = -1 if wanted.limit is None else wanted.limit
    statement = (
        "SELECT id, event FROM (SELECT id, event, started_us, rowid AS place FROM visits "
        f"WHERE {' AND '.join(conditions)} ORDER BY started_us DESC, rowid DESC LIMIT ?) ORDER BY started_us, place"
    )
    try:
        with closing(_open_to_read(path)) as connection:
            if not has_tables(connection):
                return
            for visit, text in connection.execute(statement, [*values, limit]):
                try:
                    event = Event.model_validate_json(text)
                except ValidationError:
                    if on_unreadable is not None:
                        on_unreadable(f"visit {visit} was written by another version and is left out")
                    continue
                yield event
    except sqlite3.Error as error:
        raise InputError(f"cannot read the store {path}: {error}") from error


def _open_to_read(path: Path) -> sqlite3.Connection:
    if not is_file(path):
        raise InputError(f"no store {path}: watch a camera first, or name another file with ", Parameter("store"))
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=2.0)
    try:
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
        except sqlite3.OperationalError:
            # Where the folder may not be written and nobody has the store open, there is no shared memory to use.
            if path.with_name(path.name + "-wal").exists():
                raise
            connection.close()
            connection = sqlite3.connect(f"{uri}?immutable=1", uri=True)
            (application,) = connection.execute("PRAGMA application_id").fetchone()
        # A process that was killed as it began the store leaves one without anything.
        if application != APPLICATION_ID and (application or has_tables(connection)):
            raise InputError(f"cannot read {path}: it is no store of twincar-edge")
        connection.create_function(
            "folded", 1, lambda text: text if text is None else text.casefold(), deterministic=True
        )
    except BaseException:
        connection.close()
        raise
    return connection
