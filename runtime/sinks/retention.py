"""Retention: limits, an index of the files that they apply to, and a guard against a wrong clock."""

from __future__ import annotations

import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

logger = logging.getLogger(__name__)

RESERVE_BYTES = 200 * 10**6
SWEEP_S = 3600.0
HOLD_S = 6 * 3600.0
# On a quiet road a few old files are soon most of all files; deleting fewer than this needs no guard.
GUARD_MIN_ENTRIES = 20

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder."""
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Limits:
    """Retention limits of a folder or a store.

    Attributes:
        size_bytes: maximum size of all files together; None for no limit.
        age: maximum age of a visit, since its start; None for no limit.
        reserve_bytes: free space to leave on the disk, for events. While less is free, no file is saved.
    """

    size_bytes: int | None = None
    age: timedelta | None = None
    reserve_bytes: int = 0

    def shortage(self, free: int) -> str | None:
        """Return a message if less than the reserve is free, or None."""
        if free >= self.reserve_bytes:
            return None
        return f"has less than {self.reserve_bytes / 1e6:.0f} MB free ({free / 1e6:.0f} MB now)"


class RetentionIndex:
    """The files that count against a size limit, oldest first by name.

    Attributes:
        bytes: total size of the files.
    """

    def __init__(self, size_bytes: int | None) -> None:
        """Start empty; `size_bytes` limits the total size, None for no limit."""
        self.bytes = 0
        self._size_bytes = size_bytes
        self._sizes: OrderedDict[Path, int] = OrderedDict()

    def fill(self, paths: Iterable[Path]) -> None:
        """Replace the index with existing files."""
        self._sizes = OrderedDict((path, path.stat().st_size) for path in sorted(paths, key=lambda path: path.name))
        self.bytes = sum(self._sizes.values())

    def add(self, path: Path) -> None:
        """Register a new or rewritten file."""
        size = path.stat().st_size
        self.bytes += size - self._sizes.pop(path, 0)
        self._sizes[path] = size

    def paths(self) -> list[Path]:
        """Return the files, oldest first."""
        return list(self._sizes)

    def delete(self, path: Path) -> None:
        """Delete a file."""
        path.unlink(missing_ok=True)
        self.bytes -= self._sizes.pop(path)

    def surplus(self) -> Path | None:
        """Return the oldest file if the total exceeds the limit, else None."""
        within = self._size_bytes is None or self.bytes <= self._size_bytes
        return None if within else next(iter(self._sizes), None)


class AgeGuard:
    """Delays a deletion by age that would remove most entries at once.

    An hourly sweep normally deletes a small part. If at least `GUARD_MIN_ENTRIES` and more than half of the entries
    expire at once, the clock jumped or a limit was changed: the deletion must be due for `HOLD_S` before it is allowed.
    """

    def __init__(self, entries: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Guard `entries`, a plural for messages; `monotonic` returns seconds that never go back."""
        self._entries = entries
        self._monotonic = monotonic
        self._since_s: float | None = None

    def allows(self, expired: int, total: int) -> bool:
        """Return whether `expired` of `total` entries may be deleted now."""
        if expired < GUARD_MIN_ENTRIES or 2 * expired <= total:
            self._since_s = None
            return True
        now_s = self._monotonic()
        if self._since_s is None:
            self._since_s = now_s
            logger.warning(
                "%d of %d %s expired at once: check the clock; they will be deleted if this lasts %.0f h",
                expired, total, self._entries, HOLD_S / 3600,
            )  # fmt: skip
        return now_s - self._since_s >= HOLD_S
