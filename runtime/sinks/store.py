"""The store: an SQLite file with one row per visit, which `events` can read while `watch` writes it."""

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import as_text, is_file
from twincar_edge.runtime.events import Event, Level
from twincar_edge.runtime.sinks.base import Crop, DeliveryError, Sink
from twincar_edge.runtime.sinks.retention import Limits
from twincar_edge.runtime.sinks.store_retention import StoreRetention
from twincar_edge.runtime.sinks.store_schema import DELETE_FALSE, MIGRATIONS, UPSERT, microseconds, saved_columns
from twincar_edge.runtime.storage.database import Database, DatabaseError, has_tables, open_read_only, transaction

logger = logging.getLogger(__name__)


class EventStore(Sink):
    """A sink with one row per visit: `start` inserts it, `update` and `end` replace it.

    A visit that ends as a false positive loses its row.

    A later run over a video or image file with the same content and the same camera name replaces the file's rows:
    those of equal visits one by one, the rest once the run reaches the end of the file. An interrupted run therefore
    removes nothing.

    An event is on disk when `write` returns. A damaged file is renamed to `<name>.corrupt-<time>` and a new one
    created, so that damage to old visits does not prevent new ones from being stored.
    """

    def __init__(
        self,
        path: Path,
        *,
        crops: Path | None = None,
        clips: Path | None = None,
        limits: Limits | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            path: the file, created when needed.
            crops: the folder of saved pictures.
            clips: the folder of saved clips.
            limits: the retention limits, enforced about once an hour; no limits if not given.
            clock: returns the current time with a time zone.
            monotonic: returns seconds that never go back.
        """
        self._crops = crops
        self._clips = clips
        self._run = uuid.uuid4().hex
        self._database = Database(path, MIGRATIONS, "store")
        self._retention = StoreRetention(self._database, limits or Limits(), clock=clock, monotonic=monotonic)

    def open(self) -> None:
        """Open the file. If it cannot be opened now, as on a full disk, `write` retries.

        Raises:
            InputError: the file is not a store, of a newer version, or not writable.
        """
        try:
            self._database.open()
        except DatabaseError as error:
            logger.debug("cannot open the store yet: %s", error)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Insert or replace the row of a visit.

        Raises:
            DeliveryError: the disk is full or failing, or another process locks the file.
        """

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                if event.false_positive:
                    connection.execute(DELETE_FALSE, (event.id, event.interrupted))
                else:
                    connection.execute(UPSERT, (*self._row(event), event.interrupted))

        self._execute(run)

    def tend(self) -> None:
        """Delete visits above the limits, oldest first.

        Raises:
            DeliveryError: see `write`.
        """
        try:
            self._retention.sweep()
        except DatabaseError as error:
            raise DeliveryError(str(error)) from error

    def finished(self, camera: str, recordings: Collection[str]) -> None:
        """Delete the remaining rows that earlier runs over these files stored.

        Raises:
            DeliveryError: see `write`.
        """

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.executemany(
                    "DELETE FROM visits WHERE recording = ? AND camera = ? AND run <> ?",
                    ((recording, camera, self._run) for recording in recordings),
                )

        self._execute(run)

    def _execute(self, run: Callable[[sqlite3.Connection], None]) -> None:
        try:
            self._database.run(run)
        except DatabaseError as error:
            raise DeliveryError(str(error)) from error

    def _row(self, event: Event) -> tuple[Any, ...]:
        return (
            event.id, microseconds(event.started_at), event.type, event.camera, event.level, event.name, event.make,
            event.model, event.to_json(), event.recording, self._run, _saved(self._crops, event.crop),
            _saved(self._clips, event.clip),
        )  # fmt: skip


def _saved(folder: Path | None, name: str | None) -> str | None:
    return None if folder is None or name is None else as_text(str(folder.absolute() / name))


_MAX_IDS = 5  # listed in an error
_BATCH = 500  # visits per query


@dataclass(frozen=True)
class EventFilter:
    """Selects visits. A field that is None or empty selects all.

    Attributes:
        since: visits that started at this time or later.
        until: visits that started before this time.
        camera: name of the camera.
        make: the make, ignoring case.
        model: part of the model, ignoring case.
        name: part of the name, ignoring case.
        id: prefix of the visit's id.
        levels: levels of the answer.
        limit: maximum number of visits; the newest are selected.
    """

    since: datetime | None = None
    until: datetime | None = None
    camera: str | None = None
    make: str | None = None
    model: str | None = None
    name: str | None = None
    id: str | None = None
    levels: tuple[Level, ...] = ()
    limit: int | None = None


# A filter's field -> its condition; `folded` is Python's casefold, because SQLite's lower() handles ASCII only.
_CONDITIONS = {
    "since": "started_us >= ?",
    "until": "started_us < ?",
    "camera": "camera = ?",
    "make": "folded(make) = folded(?)",
    "model": "instr(folded(model), folded(?)) > 0",
    "name": "instr(folded(name), folded(?)) > 0",
    "id": "id >= ? AND id < ? || char(1114111)",  # a prefix match that uses the primary key's index
}


@dataclass(frozen=True)
class StoredVisit:
    """A visit in the store: its newest event, and the paths of its saved picture and clip, or None."""

    event: Event
    crop: Path | None
    clip: Path | None


def query(
    path: Path, wanted: EventFilter | None = None, on_unreadable: Callable[[str], None] | None = None
) -> list[Event]:
    """Return the newest event of each selected visit, ordered by start time. See `read_events`.

    Raises:
        InputError: the store does not exist or cannot be read.
    """
    return list(read_events(path, wanted, on_unreadable))


def read_events(
    path: Path, wanted: EventFilter | None = None, on_unreadable: Callable[[str], None] | None = None
) -> Iterator[Event]:
    """Yield the newest event of each selected visit, ordered by start time. See `read_visits`."""
    return (visit.event for visit in read_visits(path, wanted, on_unreadable))


def stored_visit(text: str, crop: str | None, clip: str | None) -> StoredVisit | None:
    """Parse a row; return None if this version cannot read it."""
    try:
        event = Event.model_validate_json(text)
    except ValidationError:
        return None
    return StoredVisit(event, *(None if saved is None else Path(saved) for saved in (crop, clip)))


def read_visits(
    path: Path, wanted: EventFilter | None = None, on_unreadable: Callable[[str], None] | None = None
) -> Iterator[StoredVisit]:
    """Yield the selected visits, ordered by start time.

    The file is opened read-only, and its writer is not blocked. Visits deleted meanwhile are skipped.

    Args:
        path: the store.
        wanted: which visits; all of them if not given.
        on_unreadable: called with a line for each row that this version cannot read; the row is skipped.

    Raises:
        InputError: the store does not exist or cannot be read.
    """
    wanted = wanted or EventFilter()
    conditions, values = ["1"], []
    for field, condition in _CONDITIONS.items():
        value = getattr(wanted, field)
        if value is not None:
            conditions.append(condition)
            one = microseconds(value) if isinstance(value, datetime) else value
            values += [one] * condition.count("?")
    if wanted.levels:
        conditions.append(f"level IN ({', '.join('?' * len(wanted.levels))})")
        values += wanted.levels
    condition = " AND ".join(conditions)
    limit = -1 if wanted.limit is None else wanted.limit
    newest = f"SELECT started_us, rowid AS place FROM visits WHERE {condition} ORDER BY 1 DESC, 2 DESC LIMIT ?"
    try:
        with closing(_open_store(path)) as connection:
            if not has_tables(connection):
                return
            statement = (
                f"SELECT rowid, id, event, {saved_columns(connection)} FROM visits WHERE {condition} AND rowid IN "
            )
            found = connection.execute(f"SELECT place FROM ({newest}) ORDER BY started_us, place", [*values, limit])
            places = [place for (place,) in found]
            for first in range(0, len(places), _BATCH):
                for id, *row in _rows(connection, statement, values, places[first : first + _BATCH]):
                    visit = stored_visit(*row)
                    if visit is not None:
                        yield visit
                    elif on_unreadable is not None:
                        on_unreadable(f"skipping visit {id}: written by another version")
    except sqlite3.Error as error:
        raise InputError(f"cannot read the store {path}: {error}") from error


def _rows(
    connection: sqlite3.Connection, statement: str, values: Sequence[Any], places: Sequence[int]
) -> list[Sequence[str]]:
    """Return the rows with these rowids, fetched at once: a long read would keep the writer from truncating its log."""
    rows = connection.execute(f"{statement}({', '.join('?' * len(places))})", [*values, *places]).fetchall()
    found = {place: row for place, *row in rows}
    return [found[place] for place in places if place in found]


def read_visit(
    path: Path, visit: str, wanted: EventFilter | None = None, on_unreadable: Callable[[str], None] | None = None
) -> StoredVisit:
    """Return one visit.

    Args:
        path: the store.
        visit: its id, or a prefix of it.
        wanted: the visits to search; all of them if not given.
        on_unreadable: see `read_visits`.

    Raises:
        InputError: the store or the visit does not exist, or the prefix is ambiguous.
    """
    found = list(read_visits(path, replace(wanted or EventFilter(), id=visit, limit=_MAX_IDS + 1), on_unreadable))
    found = [one for one in found if one.event.id == visit] or found
    if not found:
        raise InputError(f"no visit with an id that starts with {visit!r}: `twincar-edge events` lists ids")
    if len(found) > 1:
        ids = ", ".join(one.event.id for one in found[:_MAX_IDS]) + (", …" if len(found) > _MAX_IDS else "")
        raise InputError(f"ambiguous id {visit!r}: it matches {ids}")
    return found[0]


def _open_store(path: Path) -> sqlite3.Connection:
    if not is_file(path):
        raise InputError(
            f"no store {path}: watch a camera or file first, or choose another store with ", Parameter("store")
        )
    connection = open_read_only(path)
    connection.create_function("folded", 1, lambda text: text if text is None else text.casefold(), deterministic=True)
    return connection
