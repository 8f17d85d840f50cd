"""News of the store: which visits are new or have changed, whichever process writes them."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from twincar_edge.errors import InputError
from twincar_edge.runtime.page.listeners import Listener, Listeners
from twincar_edge.runtime.sinks.store import EventFilter, StoredVisit, read_visits
from twincar_edge.runtime.storage.database import open_read_only

logger = logging.getLogger(__name__)

POLL_S = 0.25
NEWEST = 24  # visits that are looked at


class VisitFeed:
    """The newest visits of a store, read again when the file changes, while there are listeners.

    SQLite says in a few microseconds whether another connection has committed, in this process or another, so that one
    way serves a page beside the loop and a page of its own.
    """

    def __init__(self, store: Path) -> None:
        """Take the store's file, which may come later."""
        self._store = store
        self._listeners = Listeners()
        self._newest: tuple[StoredVisit, ...] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="visit feed", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Follow the store while the block runs, and notify the listener of new visits."""
        with self._listeners.listening(listener):
            with self._changed:
                self._changed.notify_all()
            yield

    def newest(self) -> tuple[StoredVisit, ...] | None:
        """Return the newest visits, by their start; None where the store was not read yet."""
        return self._newest

    def _follow(self) -> None:
        tail = _Tail(self._store)
        while self._wait_for_listeners():
            if tail.has_changed():
                try:
                    self._newest = tuple(read_visits(self._store, EventFilter(limit=NEWEST)))
                except InputError as error:
                    logger.debug("cannot follow the visits: %s", error)
                    tail.close()
                self._listeners.wake()
            with self._changed:
                self._changed.wait_for(lambda: self._closed, POLL_S)
            if not self._listeners:
                tail.close()
                self._newest = None  # the next listener is not told what was new an hour ago
        tail.close()

    def _wait_for_listeners(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._listeners or self._closed)
            return not self._closed


class _Tail:
    """Whether a database has changed since it was last asked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None

    def has_changed(self) -> bool:
        """Return whether it has; False where it cannot be read now, or does not exist yet."""
        try:
            file = self._path.stat().st_ino  # a damaged store is replaced by a new file
            if self._connection is None or (self._seen is not None and file != self._seen[0]):
                self.close()
                self._connection = open_read_only(self._path)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except (OSError, sqlite3.Error, InputError) as error:
            logger.debug("cannot follow the visits: %s", error)
            self.close()
            return False
        before, self._seen = self._seen, (file, version)
        return before != self._seen

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._seen = None
