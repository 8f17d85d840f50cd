"""Follows the store: which visits are new or have changed, whichever process writes them."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.runtime.page.background import BackgroundWorker
from twincar_edge.runtime.page.listeners import Listener, Listeners
from twincar_edge.runtime.sinks.store import EventFilter, StoredVisit, read_visits
from twincar_edge.runtime.storage.database import open_read_only

logger = logging.getLogger(__name__)

POLL_S = 0.25
NEWEST = 24  # visits to compare


class VisitFeed(BackgroundWorker):
    """The newest visits of a store. While there are listeners, they are read again whenever the file changes.

    SQLite reports in a few microseconds whether another connection has committed, in this process or in another one. So
    the page of the loop's process and the page of a separate process work in the same way.
    """

    def __init__(self, store: Path) -> None:
        """Prepare; the store's file may be created later."""
        super().__init__("visit feed")
        self._store = store
        self._listeners = Listeners()
        self._newest: tuple[StoredVisit, ...] | None = None

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Follow the store while the block runs, and notify the listener of new visits."""
        with self._listeners.listening(listener):
            with self._changed:
                self._changed.notify_all()
            yield

    def newest(self) -> tuple[StoredVisit, ...] | None:
        """Return the newest visits, ordered by start; None before the store is first read."""
        return self._newest

    def _work(self) -> None:
        tail = _Tail(self._store)
        try:
            while self._wait_for(lambda: self._listeners):
                if tail.has_changed():
                    try:
                        self._newest = tuple(read_visits(self._store, EventFilter(limit=NEWEST)))
                    except InputError as error:
                        logger.debug("cannot read the visits: %s", error)
                        tail.close()
                    self._listeners.wake()
                self._wait_for(lambda: False, POLL_S)
                if not self._listeners:
                    tail.close()
                    self._newest = None  # outdated when the next listener arrives
        finally:
            tail.close()


class _Tail:
    """Detects changes of a database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None

    def has_changed(self) -> bool:
        """Return whether it has changed since the last call; False if it does not exist yet or cannot be read."""
        try:
            file = self._path.stat().st_ino  # a damaged store is replaced by a new file
            if self._connection is None or (self._seen is not None and file != self._seen[0]):
                self.close()
                self._connection = open_read_only(self._path)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except (OSError, sqlite3.Error, InputError) as error:
            logger.debug("cannot open the visits: %s", error)
            self.close()
            return False
        before, self._seen = self._seen, (file, version)
        return before != self._seen

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._seen = None
