"""Persists open visits, so that after a crash the next run can publish their ends."""

from __future__ import annotations

import logging
import sqlite3
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.base import Crop, DeliveryError, Sink
from twincar_edge.runtime.storage.database import Database, DatabaseError, transaction

logger = logging.getLogger(__name__)

_MIGRATIONS = ("CREATE TABLE open (id TEXT PRIMARY KEY, event TEXT NOT NULL)",)


class OpenVisits(Sink):
    """A sink that stores the newest event of each visit until the visit ends.

    Visits in files are skipped: the next run over the file replaces them.

    Attributes:
        left: the newest events of visits that an earlier run left open; set by `open`.
    """

    def __init__(self, path: Path) -> None:
        """Use the file `path`, which only one process may open."""
        self.left: list[Event] = []
        self._database = Database(path, _MIGRATIONS, "list of open visits", alone=True)

    def open(self) -> None:
        """Read the visits that an earlier run left open. A full or failing disk is not an error: `write` retries.

        Raises:
            InputError: the file is not a list of open visits, or not writable.
        """
        try:
            self._database.open()
            rows = self._database.run(lambda it: it.execute("SELECT event FROM open ORDER BY rowid").fetchall())
        except DatabaseError as error:
            logger.warning("%s", error)
            return
        for (text,) in rows:
            try:
                self.left.append(Event.model_validate_json(text))
            except ValidationError:
                logger.warning("skipping an open visit that another version wrote")

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


def interrupted_end(event: Event) -> Event:
    """Return the `end` event of a visit that a crash interrupted, from its last published event.

    A visit that was not confirmed by then is a false positive.
    """
    seen_s = (event.last_time_s or 0.0) - (event.first_time_s or 0.0)
    ended_at = event.started_at + timedelta(seconds=max(0.0, seen_s))
    end = {"type": "end", "interrupted": True, "ended_at": ended_at}
    return event.model_copy(update={**end, "provisional": False, "false_positive": event.provisional})
