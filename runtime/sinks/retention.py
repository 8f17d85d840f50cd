"""What may be kept on a shared disk: limits, an index of the files that count against them, a guard against clocks."""

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
# A few old files are soon most of what there is, as on a quiet road; losing them is no mass deletion.
GUARDED_FROM = 20

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on."""
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Limits:
    """What the files of a folder may take.

    Attributes:
        size_bytes: of all files together; None for no limit.
        age: of a visit, since its start; None for no limit.
        reserve_bytes: of the disk. While less is free, nothing is saved: the rest belongs to the events.
    """

    size_bytes: int | None = None
    age: timedelta | None = None
    reserve_bytes: int = 0

    def shortage(self, free: int) -> str | None:
        """Return that a disk has less free than the reserve, in words, or None if it has more."""
        if free >= self.reserve_bytes:
            return None
        return f"has less than {self.reserve_bytes / 1e6:.0f} MB free ({free / 1e6:.0f} MB now)"


class RetentionIndex:
    """The files that count against a size limit, oldest first by name.

    Attributes:
        bytes: of all of them.
    """

    def __init__(self, size_bytes: int | None) -> None:
        """Start empty; `size_bytes` is the limit of all files together, None for no limit."""
        self.bytes = 0
        self._size_bytes = size_bytes
        self._sizes: OrderedDict[Path, int] = OrderedDict()

    def fill(self, paths: Iterable[Path]) -> None:
        """Replace the index by existing files."""
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
        """Return the oldest file if all take more than the limit, or None."""
        within = self._size_bytes is None or self.bytes <= self._size_bytes
        return None if within else next(iter(self._sizes), None)


class AgeGuard:
    """Holds a deletion by age back that would take most of what there is at once.

    An hourly sweep takes a small part. Where it would take `GUARDED_FROM` or more, and more than half, the clock has
    jumped or a limit was changed: it has to want the same for `HOLD_S` until it may.
    """

    def __init__(self, what: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take what is deleted, in words, in the plural; `monotonic` returns seconds that only rise."""
        self._what = what
        self._monotonic = monotonic
        self._since_s: float | None = None

    def allows(self, expired: int, total: int) -> bool:
        """Return whether so many of all may be deleted now."""
        if expired < GUARDED_FROM or 2 * expired <= total:
            self._since_s = None
            return True
        now_s = self._monotonic()
        if self._since_s is None:
            self._since_s = now_s
            logger.warning(
                "%d of %d %s are too old all at once: is the clock right? They are deleted if this holds for %.0f h",
                expired, total, self._what, HOLD_S / 3600,
            )  # fmt: skip
        return now_s - self._since_s >= HOLD_S
