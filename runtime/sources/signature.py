"""What identifies the content of a file without reading it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Signature(NamedTuple):
    """What identifies a version of a file in its folder: its name, its size in bytes, and its modification time."""

    name: str
    size: int
    changed_ns: int


def signature_of(path: Path) -> Signature | None:
    """Return a file's signature, or None if it was deleted."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Signature(path.name, status.st_size, status.st_mtime_ns)
