"""A folder with one file a visit, named by time and id, that does not outgrow its limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.files import make_folder, remains
from twincar_edge.runtime.sinks.base import DeliveryError
from twincar_edge.runtime.sinks.shelf import FreeBytes, Shelf, free_bytes, shortage

_REMAINS_AFTER = timedelta(hours=1)  # what is younger, another process may be writing
# Begins with the time, so that the order of names is the order of time.
_NAME = r"(\d{8}T\d{6}\.\d{3})Z-[A-Za-z0-9_-]+"


def visit_file_name(started_at: datetime, id: str, suffix: str) -> str:
    """Return the file name of something of a visit: `20250131T142315.250Z-<id>` and a suffix."""
    started = started_at.astimezone(UTC)
    return f"{started:%Y%m%dT%H%M%S}.{started.microsecond // 1000:03d}Z-{re.sub(r'[^A-Za-z0-9-]', '_', id)}{suffix}"


class VisitFolder:
    """Holds files with names of `visit_file_name`: the oldest go above a size, and those above an age.

    Other files are never removed. When the disk has less free than a reserve, nothing is saved: what is left belongs to
    the events.
    """

    def __init__(
        self,
        folder: Path,
        suffix: str,
        what: str,
        *,
        limit_bytes: int | None = None,
        age: timedelta | None = None,
        reserve_bytes: int = 0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        free_bytes: FreeBytes = free_bytes,
    ) -> None:
        """Prepare; the folder is made by `make`.

        Args:
            folder: whose files have the suffix `suffix`.
            suffix: of the files, with its dot.
            what: one of them in words, for messages.
            limit_bytes: of all files together.
            age: of a visit, since its start.
            reserve_bytes: of the disk.
            clock: the time of day, with a time zone.
            free_bytes: of the disk that a folder is on.
        """
        self.folder = folder
        self._suffix = suffix
        self._what = what
        self._pattern = re.compile(_NAME + re.escape(suffix), re.ASCII)
        self._age = age
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._free_bytes = free_bytes
        self._limited = limit_bytes is not None or age is not None
        self._shelf = Shelf(limit_bytes)
        self._filled = False

    def make(self) -> None:
        """Make the folder, and remove what a run that was killed left half-written in it.

        Raises:
            InputError: it cannot be made or read.
        """
        make_folder(self.folder)
        try:
            for path in remains(self.folder):
                written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                if path.suffix == self._suffix and written_at < self._clock() - _REMAINS_AFTER:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot save {self._what}s in {self.folder}: {error.strerror}") from error

    def save(self, name: str, write: Callable[[Path], None]) -> None:
        """Let `write` write a file of this name, whole or not at all, and remove those that there is no room for.

        Raises:
            DeliveryError: it cannot be written, or the disk's reserve is used up.
        """
        path = self.folder / name
        try:
            if self._limited:
                self._fill()
                self._shelf.prune(self._is_too_old)
            problem = shortage(self._free_bytes(self.folder), self._reserve_bytes)
            if problem is not None:
                raise DeliveryError(
                    f"no {self._what}s are saved in {self.folder} while its disk {problem}: the rest is for events"
                )
            write(path)
            if self._limited:
                self._shelf.add(path)
                self._shelf.prune(self._is_too_old)
        except (OSError, InputError) as error:
            raise DeliveryError(f"a {self._what} is not saved: {error}") from error

    def _fill(self) -> None:
        """Learn from the folder, once, what is ours in it."""
        if not self._filled:
            entries = self.folder.iterdir()
            self._shelf.fill(
                path for path in entries if self._taken_at(path.name) and path.is_file() and not path.is_symlink()
            )
            self._filled = True

    def _taken_at(self, name: str) -> datetime | None:
        """Return when the visit of a file began, or None where the name is none of ours."""
        found = self._pattern.fullmatch(name)
        try:
            return None if found is None else datetime.strptime(found[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
        except ValueError:
            return None

    def _is_too_old(self, path: Path) -> bool:
        taken_at = self._taken_at(path.name)
        return self._age is not None and taken_at is not None and taken_at < self._clock() - self._age
