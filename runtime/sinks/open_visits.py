"""Persists open visits, so that after a crash the next run can publish their ends."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.base import NO_CROP, Crop, DeliveryError, Sink
from twincar_edge.runtime.storage.database import Database, DatabaseError, transaction

logger = logging.getLogger(__name__)

Publish = Callable[[Event, Crop], None]

_MIGRATIONS = ("CREATE TABLE open (id TEXT PRIMARY KEY, event TEXT NOT NULL)",)


class OpenVisits(Sink):
    """A sink that stores the newest event of each visit until the visit ends.

    Visits in files are skipped: the next run over the file replaces them.

    Attributes:
        left: the newest events of visits that an earlier run left open and that have not been ended; read when the
            file is first opened.
    """

    tend_s = 10.0

    def __init__(self, path: Path) -> None:
        """Use the file `path`, which only one process may open."""
        self.left: list[Event] = []
        self._was_read = False
        self._publish: Publish | None = None
        self._publishing = threading.Lock()
        self._database = Database(path, _MIGRATIONS, "list of open visits", alone=True, on_open=self._read_left)

    def open(self) -> None:
        """Read the visits that an earlier run left open. If the disk is full or failing, `tend` and `write` retry.

        Raises:
            InputError: the file is not a list of open visits, or not writable.
        """
        with contextlib.suppress(DatabaseError):  # `tend` reports it
            self._database.open()

    def end_left(self, publish: Publish | None) -> None:
        """Publish the `end` events of the visits in `left`: now, or as soon as the file can be read.

        Args:
            publish: takes the events, from any thread; None publishes no more.
        """
        with self._publishing:
            self._publish = publish
        self._end_left()

    def tend(self) -> None:
        """Read what an earlier run left open, if that failed before, and end it.

        Raises:
            DeliveryError: the disk is full or failing.
        """
        if not self._was_read:
            try:
                self._database.run(lambda _connection: None)
            except DatabaseError as error:
                raise DeliveryError(str(error)) from error
        self._end_left()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Store the newest event of a visit, or remove an ended visit.

        Raises:
            DeliveryError: the disk is full or failing.
        """
        if event.recording is not None:
            return

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                if event.type == "end":
                    connection.execute("DELETE FROM open WHERE id = ?", [event.id])
                else:
                    connection.execute("INSERT OR REPLACE INTO open VALUES (?, ?)", [event.id, event.to_json()])

        try:
            self._database.run(run)
        except DatabaseError as error:
            raise DeliveryError(str(error)) from error

    def _read_left(self, connection: sqlite3.Connection) -> None:
        if self._was_read:  # what the file has now is from this run
            return
        rows = connection.execute("SELECT event FROM open ORDER BY rowid").fetchall()
        self._was_read = True
        for (text,) in rows:
            try:
                self.left.append(Event.model_validate_json(text))
            except ValidationError:
                logger.warning("skipping an open visit that another version wrote")

    def _end_left(self) -> None:
        with self._publishing:
            while self._publish is not None and self.left:
                self._publish(interrupted_end(self.left.pop(0)), NO_CROP)


def interrupted_end(event: Event) -> Event:
    """Return the `end` event of a visit that a crash interrupted, from its last published event.

    A visit that was not confirmed by then is a false positive.
    """
    seen_s = (event.last_time_s or 0.0) - (event.first_time_s or 0.0)
    ended_at = event.started_at + timedelta(seconds=max(0.0, seen_s))
    end = {"type": "end", "interrupted": True, "ended_at": ended_at}
    return event.model_copy(update={**end, "provisional": False, "false_positive": event.provisional})
