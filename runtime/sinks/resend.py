"""Resends events that were set aside. A request is a file next to the spool, which a running process has locked.

The delivering process finds the request within `POLL_S`, or when it starts, and removes it when it has served it.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import write_text
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.storage.database import is_in_use
from twincar_edge.runtime.storage.state import StateFolder

logger = logging.getLogger(__name__)

POLL_S = 5.0
_SPOOL, _REQUEST = ".sqlite", ".resend"
_MAX_BYTES = 1000


def request_resend(state: Path | None = None, sink: str | None = None, since: datetime | None = None) -> list[str]:
    """Request that events set aside be sent again; return the names of the requested sinks.

    While a process runs, these are its sinks: nothing serves the request of another spool.

    Args:
        state: the state folder; the default one if not given.
        sink: the sink's kind or name; all sinks if not given.
        since: only events set aside at this time or later.

    Raises:
        InputError: the sink has no spool, no running sink has it, or a request cannot be written.
    """
    folder = StateFolder(state).spool
    spools = sorted(folder.glob(f"*{_SPOOL}")) if folder.is_dir() else []
    if not spools:
        raise InputError(f"no spool in {folder}: choose another state folder with ", Parameter("state"))
    chosen = [path for path in spools if sink in (None, path.stem, *path.stem.split("-", 1))]
    if not chosen:
        names = ", ".join(path.stem for path in spools)
        raise InputError(f"no spool of sink {sink!r} in {folder}: choose from {names}")
    if served := [path for path in spools if is_in_use(path)]:
        names = ", ".join(path.stem for path in chosen)
        chosen = [path for path in chosen if path in served]
        if not chosen:
            raise InputError(
                f"no sink of the running process has the spool {names}: restart it with the former name or address"
            )
    text = json.dumps({"since": None if since is None else since.astimezone(UTC).isoformat()})
    for path in chosen:
        write_text(request_of(path), text + "\n")
    return [path.stem for path in chosen]


def request_of(spool: Path) -> Path:
    """Return the path of the request for a spool."""
    return spool.with_suffix(_REQUEST)


class Resend:
    """Iterates over the events of a resend request.

    Attributes:
        active: a request is being served.
    """

    def __init__(self, spool: Spool, label: str) -> None:
        """Serve requests for `spool`, which must be open when `next` is called; `label` is for messages."""
        self.active = False
        self._spool = spool
        self._label = label
        self._path = request_of(spool.path)
        self._since: datetime | None = None
        self._served: tuple[int, int] | None = None  # identifies the file of the current request
        self._after = self._through = 0
        self._delivered = self._refused = 0

    def next(self) -> tuple[int, str] | None:
        """Return number and JSON of the next event to send, or None.

        Raises:
            DatabaseError: the spool cannot be read now.
        """
        if not self.active and not self._begin():
            return None
        found = self._spool.next_set_aside(self._after, self._through, self._since)
        if found is None:
            self._finish()
        return found

    def delivered(self, number: int) -> None:
        """Remove a delivered event from the spool.

        Raises:
            DatabaseError: the event was not removed; `next` will return it again.
        """
        self._spool.remove_set_aside(number)
        self._after = number
        self._delivered += 1

    def refused(self, number: int) -> None:
        """Record that an event was refused again; it remains set aside."""
        self._after = number
        self._refused += 1

    def _begin(self) -> bool:
        try:
            self._served = self._version()
            with self._path.open(encoding="utf-8") as file:
                since = json.loads(file.read(_MAX_BYTES))["since"]
            self._since = None if since is None else datetime.fromisoformat(since)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, LookupError, TypeError) as error:
            logger.warning("%s: discarding invalid resend request %s: %s", self._label, self._path, error)
            self._remove()
            return False
        self._through = self._spool.last_set_aside()
        self._after = self._delivered = self._refused = 0
        self.active = True
        return True

    def _finish(self) -> None:
        self.active = False
        self._remove()
        logger.info(
            "%s: resent the events set aside: %d delivered, %d refused again",
            self._label, self._delivered, self._refused,
        )  # fmt: skip

    def _version(self) -> tuple[int, int]:
        state = self._path.stat()
        return state.st_ino, state.st_mtime_ns

    def _remove(self) -> None:
        """Remove the request, unless a newer one has replaced it: that one is served next."""
        try:
            if self._version() == self._served:
                self._path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning(
                "%s: cannot remove resend request %s, which will be served again: %s",
                self._label, self._path, error.strerror,
            )  # fmt: skip
