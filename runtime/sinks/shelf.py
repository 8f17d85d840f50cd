"""Pictures on a disk that is not theirs alone: the oldest go above a limit, and none comes where the disk runs full."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

RESERVE_BYTES = 200 * 10**6

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """Return how much of the disk that a folder is on is free."""
    return shutil.disk_usage(folder).free


def shortage(free: int, reserve_bytes: int) -> str | None:
    """Return in words that a disk has less free than its reserve, or None where it has more."""
    if free >= reserve_bytes:
        return None
    return f"has less than {reserve_bytes / 1e6:.0f} MB free ({free / 1e6:.0f} MB now)"


class Shelf:
    """Knows the pictures that somebody has written, oldest first by name, and what they take together.

    Attributes:
        bytes: of all of them.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        """Start empty; `limit_bytes` of all pictures together, None for as many as come."""
        self.bytes = 0
        self._limit_bytes = limit_bytes
        self._sizes: OrderedDict[Path, int] = OrderedDict()

    def fill(self, paths: Iterable[Path]) -> None:
        """Know the pictures that are there already, and nothing else."""
        self._sizes = OrderedDict((path, path.stat().st_size) for path in sorted(paths, key=lambda path: path.name))
        self.bytes = sum(self._sizes.values())

    def add(self, path: Path) -> None:
        """Know one that has been written, or written again."""
        size = path.stat().st_size
        self.bytes += size - self._sizes.pop(path, 0)
        self._sizes[path] = size

    def prune(self, has_to_go: Callable[[Path], bool] = lambda _path: False) -> list[Path]:
        """Remove the oldest while all take more than the limit, or the oldest has to go; return those that went."""
        gone = []
        while self._sizes:
            path, size = next(iter(self._sizes.items()))
            if not has_to_go(path) and (self._limit_bytes is None or self.bytes <= self._limit_bytes):
                break
            path.unlink(missing_ok=True)
            del self._sizes[path]
            self.bytes -= size
            gone.append(path)
        return gone
