"""What a folder of files on a shared disk may take: limits, and an index of the files that count against them."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

RESERVE_BYTES = 200 * 10**6

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

    def prune(self, expired: Callable[[Path], bool]) -> list[Path]:
        """Delete the oldest file while it has expired or all take more than the limit; return the deleted ones."""
        deleted = []
        while self._sizes:
            path, size = next(iter(self._sizes.items()))
            if not expired(path) and (self._size_bytes is None or self.bytes <= self._size_bytes):
                break
            path.unlink(missing_ok=True)
            del self._sizes[path]
            self.bytes -= size
            deleted.append(path)
        return deleted
