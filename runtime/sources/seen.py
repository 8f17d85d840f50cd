"""Which images of a folder were seen before: a journal that outlives the process."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import NamedTuple

from twincar_edge.errors import InputError
from twincar_edge.files import write_bytes

logger = logging.getLogger(__name__)

SLACK = 1000  # lines added, at least, before the journal is compacted


class Signature(NamedTuple):
    """What identifies an image: the file's name, its size in bytes, and its modification time."""

    name: str
    size: int
    changed_ns: int


def signature_of(path: Path) -> Signature | None:
    """Return a file's signature, or None if it was deleted."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: an invalid file name, which a damaged journal may hold
        return None
    return Signature(path.name, status.st_size, status.st_mtime_ns)


class SeenImages:
    """An append-only file with a line for each image that was seen.

    Each line begins with its line feed: a line truncated by a crash damages only itself, and is skipped when the file
    is read. The file is compacted, without images that were deleted from the folder, when it is opened and whenever
    there are too many of these. Lines are not synced one by one: images whose lines a power cut loses are delivered
    again.

    Attributes:
        images: those that were seen.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        """Read the file, if there is one; `folder` is where the images are.

        Raises:
            InputError: it is there and cannot be read.
        """
        self._path = path
        self._folder = folder
        self.images = self._read()
        self._added = 0
        self._full = False
        self._report(self._rewrite())

    def note(self, image: Signature) -> str | None:
        """Add an image.

        Returns:
            Why the write failed, in one line, or None. It does not raise: a full disk must not stop the run.
        """
        self.images.add(image)
        self._added += 1
        if self._added > max(SLACK, len(self.images) // 2) or self._full:
            return self._report(self._rewrite())
        try:
            with self._path.open("ab") as file:
                file.write(_line(image))
        except OSError as error:
            return self._report(f"cannot write {self._path}: {error.strerror}")
        return self._report(None)

    def _read(self) -> set[Signature]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror}") from error
        return {image for line in data.split(b"\n") if (image := _parse(line)) is not None}

    def _rewrite(self) -> str | None:
        """Rewrite the file with the images that still exist."""
        self.images = {image for image in self.images if signature_of(self._folder / image.name) == image}
        try:
            write_bytes(self._path, b"".join(map(_line, sorted(self.images))))
        except InputError as error:
            return str(error)
        self._added = 0
        return None

    def _report(self, problem: str | None) -> str | None:
        # Lines that failed are still in memory: the next attempt writes them all.
        if problem is not None and not self._full:
            logger.warning("%s; after a restart, images may be given twice", problem)
        self._full = problem is not None
        return problem


def _line(image: Signature) -> bytes:
    return b"\n" + json.dumps(image).encode("ascii")


def _parse(line: bytes) -> Signature | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None  # truncated, or not written by this class
    match found:
        case [str(name), int(size), int(changed_ns)]:
            return Signature(name, size, changed_ns)
    return None
