"""A folder of files of visits, named by time and id, with retention limits."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.files import make_folder, remains
from twincar_edge.runtime.sinks.base import DeliveryError
from twincar_edge.runtime.sinks.retention import SWEEP_S, AgeGuard, FreeBytes, Limits, RetentionIndex, free_bytes
from twincar_edge.runtime.storage.disks import SameDisk

# Names start with the time, so sorting by name sorts by time.
_STEM = re.compile(r"(\d{8}T\d{6}\.\d{3})Z-[A-Za-z0-9_-]+", re.ASCII)


def visit_file_name(started_at: datetime, id: str, suffix: str) -> str:
    """Return the file name of a visit: `20250131T142315.250Z-<id>` and `suffix`."""
    started = started_at.astimezone(UTC)
    return f"{started:%Y%m%dT%H%M%S}.{started.microsecond // 1000:03d}Z-{re.sub(r'[^A-Za-z0-9-]', '_', id)}{suffix}"


def visit_time(name: str) -> datetime | None:
    """Return the start of a visit from a file name, or None if `visit_file_name` cannot have made the name."""
    found = _STEM.match(name)
    try:
        return None if found is None else datetime.strptime(found[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return None


class VisitFolder:
    """Stores files named by `visit_file_name`, and deletes the oldest above its limits.

    The size limit is enforced at each save, the age limit at each sweep, once an hour. Other files do not count and are
    never deleted.
    """

    # Older partial files are left over from a killed run; another process may still be writing younger ones.
    abandoned_after = timedelta(hours=1)

    def __init__(
        self,
        path: Path,
        suffix: str,
        what: str,
        limits: Limits | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        free_bytes: FreeBytes = free_bytes,
    ) -> None:
        """Prepare; `make` creates the folder.

        Args:
            path: the folder.
            suffix: suffix of the files, with its dot.
            what: what a file holds, in the singular, for messages.
            limits: the retention limits; no limits if not given.
            clock: returns the current time with a time zone.
            monotonic: returns seconds that never go back.
            free_bytes: returns the free bytes on the disk of a folder.
        """
        self.path = path
        self._suffix = suffix
        self._what = what
        self._limits = limits or Limits()
        self._limited = self._limits.size_bytes is not None or self._limits.age is not None
        self._clock = clock
        self._monotonic = monotonic
        self._guard = AgeGuard(f"{what}s in {path}", monotonic)
        self._indexed_s = self._swept_s = -math.inf
        self._free_bytes = free_bytes
        self._index: RetentionIndex | None = None
        self._disk = SameDisk(path)

    @property
    def bytes(self) -> int:
        """Return the total size of the indexed files."""
        return 0 if self._index is None else self._index.bytes

    def make(self) -> None:
        """Create the folder, and delete partial files that a killed run left behind.

        Raises:
            InputError: the folder cannot be created or read.
        """
        make_folder(self.path)
        try:
            self._disk.check()
            for folder in self.folders():
                for path in remains(folder):
                    written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    if path.suffix == self._suffix and written_at <= self._clock() - self.abandoned_after:
                        path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot save {self._what}s in {self.path}: {error.strerror}") from error

    def sweep(self) -> None:
        """Delete files above the limits, if there are limits and a sweep is due.

        Raises:
            DeliveryError: the folder cannot be read, or a file cannot be deleted.
        """
        now_s = self._monotonic()
        if not self._limited or now_s - self._swept_s < SWEEP_S:
            return
        try:
            self._disk.check()
            index = self._read_index()
            expired = [path for path in index.paths() if self._expired(path)]
            if self._guard.allows(len(expired), len(index.paths())):
                for path in expired:
                    self._delete(index, path)
            self._keep_size(index)
            self._swept_s = now_s
        except OSError as error:
            raise DeliveryError(f"cannot delete old {self._what}s: {error}") from error

    def save(self, name: str, write: Callable[[Path], None]) -> None:
        """Call `write`, which writes the file `name` atomically; then delete files above the limits.

        Raises:
            DeliveryError: the file cannot be written, less than the reserve is free, or the disk was unmounted.
        """
        path = self.path / name
        try:
            self._disk.check()
            index = self._read_index() if self._limited else None
            if (shortage := self._limits.shortage(self._free_bytes(self.path))) is not None:
                raise DeliveryError(
                    f"not saving {self._what}s in {self.path}: its disk {shortage}; the rest is reserved for events"
                )
            write(path)
            if index is not None:
                index.add(path)
                self._keep_size(index)
        except (OSError, InputError) as error:
            raise DeliveryError(f"cannot save a {self._what}: {error}") from error

    def folders(self) -> list[Path]:
        """Return the folders that hold files; subclasses may have several."""
        return [self.path]

    def owns(self, path: Path) -> bool:
        """Return whether a file counts against the limits, judged by its name."""
        ours = path.suffix == self._suffix and _STEM.fullmatch(path.stem) is not None
        return ours and visit_time(path.name) is not None

    def _read_index(self) -> RetentionIndex:
        """Return the index of the files, which is read again once an hour."""
        now_s = self._monotonic()
        if self._index is None or now_s - self._indexed_s >= SWEEP_S:
            index = RetentionIndex(self._limits.size_bytes)
            paths = (path for folder in self.folders() for path in folder.iterdir())
            index.fill(path for path in paths if self.owns(path) and path.is_file() and not path.is_symlink())
            self._index, self._indexed_s = index, now_s
        return self._index

    def _keep_size(self, index: RetentionIndex) -> None:
        while (path := index.surplus()) is not None:
            self._delete(index, path)

    def _delete(self, index: RetentionIndex, path: Path) -> None:
        index.delete(path)
        if path.parent != self.path:
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()

    def _expired(self, path: Path) -> bool:
        started_at = visit_time(path.name)
        return self._limits.age is not None and started_at is not None and started_at < self._clock() - self._limits.age
