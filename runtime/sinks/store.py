"""The store of visits: an SQLite file with one row a visit, which `events` can read while `watch` writes it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import is_file
from twincar_edge.runtime.events import Event, Level
from twincar_edge.runtime.sinks.base import Crop, DeliveryError, Sink
from twincar_edge.runtime.storage.database import Database, DatabaseError, has_tables, open_read_only, transaction

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
# An event that is delivered again after a restart must not reopen a visit that has ended.
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


class EventStore(Sink):
    """A sink with one row a visit: `start` inserts it, `update` and `end` replace it with what is known by then.

    A visit that ends as a false positive loses its row.

    An event is on the disk when `write` returns. A damaged file is kept as `<name>.corrupt-<time>`, and a new one is
    begun: today's visits must not be lost for the sake of yesterday's.
    """

    def __init__(self, path: Path) -> None:
        """Write to the file `path`, made when it is needed."""
        self._database = Database(path, _MIGRATIONS, "store")

    def open(self) -> None:
        """Open the file. If it cannot be opened now, as on a full disk, `write` tries again.

        Raises:
            InputError: the file is not ours, of a newer version, or not writable.
        """
        try:
            self._database.open()
        except DatabaseError as error:
            logger.debug("not open yet: %s", error)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write what is known of a visit.

        Raises:
            DeliveryError: the disk is full or failing, or another process locks the file.
        """

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                if event.false_positive:
                    connection.execute("DELETE FROM visits WHERE id = ?", (event.id,))
                else:
                    connection.execute(_UPSERT, _row(event))

        try:
            self._database.run(run)
        except DatabaseError as error:
            raise DeliveryError(str(error)) from error


@dataclass(frozen=True)
class EventFilter:
    """Selects visits. A field that is None or empty selects all.

    Attributes:
        since: visits that began at this time or later.
        until: visits that began before this time.
        camera: name of the camera.
        make: the make, ignoring case.
        model: part of the model, ignoring case.
        name: part of the name, ignoring case.
        levels: how far the answer goes.
        limit: at most so many visits, the newest.
    """

    since: datetime | None = None
    until: datetime | None = None
    camera: str | None = None
    make: str | None = None
    model: str | None = None
    name: str | None = None
    levels: tuple[Level, ...] = ()
    limit: int | None = None


# A filter's field -> its condition; `folded` is Python's casefold, because SQLite's own handles ASCII only.
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
    """Return the newest event of each selected visit, ordered by start time. See `read_events`.

    Raises:
        InputError: there is no such store, or it cannot be read.
    """
    return list(read_events(path, wanted, on_unreadable))


def read_events(
    path: Path, wanted: EventFilter | None = None, on_unreadable: Callable[[str], None] | None = None
) -> Iterator[Event]:
    """Yield the newest event of each selected visit, ordered by start time.

    The file is opened read-only, and its writer is not blocked.

    Args:
        path: the store.
        wanted: which visits; all of them if not given.
        on_unreadable: gets a line for each row that this version cannot read; the row is skipped.

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
        with closing(_open_store(path)) as connection:
            if not has_tables(connection):
                return
            for visit, text in connection.execute(statement, [*values, limit]):
                try:
                    event = Event.model_validate_json(text)
                except ValidationError:
                    if on_unreadable is not None:
                        on_unreadable(f"visit {visit} was written by another version; skipped")
                    continue
                yield event
    except sqlite3.Error as error:
        raise InputError(f"cannot read the store {path}: {error}") from error


def _open_store(path: Path) -> sqlite3.Connection:
    if not is_file(path):
        raise InputError(f"no store {path}: watch a camera first, or name another file with ", Parameter("store"))
    connection = open_read_only(path)
    connection.create_function("folded", 1, lambda text: text if text is None else text.casefold(), deterministic=True)
    return connection
