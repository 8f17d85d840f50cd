"""Which images of a folder were seen before: a journal that outlives the process."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import NamedTuple

from twincar_edge.errors import InputError
from twincar_edge.files import write_bytes

logger = logging.getLogger(__name__)

SLACK = 1000  # lines that are added, at least, before those about images that have gone are cleared away


class Signature(NamedTuple):
    """What tells one image from the next: the file's name, its bytes, and the time of its last change."""

    name: str
    size: int
    changed_ns: int


def signature_of(path: Path) -> Signature | None:
    """Return a file's signature, or None where it has gone."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # the latter for a name that no file can have, which a spoilt journal may hold
        return None
    return Signature(path.name, status.st_size, status.st_mtime_ns)


class SeenImages:
    """A file with a line for each image that was seen, added to as they are seen.

    Each line begins with its line feed: one that was cut off by the end of the process spoils itself only, and is left
    out when it is read. The file is written anew, without the images that are in the folder no more, when it is opened
    and whenever there are too many of them. Lines are not forced to the disk one by one: what a power cut takes away
    is seen again.

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
        self._tell(self._rewrite())

    def note(self, image: Signature) -> str | None:
        """Add an image.

        Returns:
            Why that cannot be written down, in one line, or None: a full disk is no reason to stop.
        """
        self.images.add(image)
        self._added += 1
        if self._added > max(SLACK, len(self.images) // 2) or self._full:
            return self._tell(self._rewrite())
        try:
            with self._path.open("ab") as file:
                file.write(_line(image))
        except OSError as error:
            return self._tell(f"cannot write {self._path}: {error.strerror}")
        return self._tell(None)

    def _read(self) -> set[Signature]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror}") from error
        return {image for line in data.split(b"\n") if (image := _parse(line)) is not None}

    def _rewrite(self) -> str | None:
        """Write the file anew with the images that are still there."""
        self.images = {image for image in self.images if signature_of(self._folder / image.name) == image}
        try:
            write_bytes(self._path, b"".join(map(_line, sorted(self.images))))
        except InputError as error:
            return str(error)
        self._added = 0
        return None

    def _tell(self, problem: str | None) -> str | None:
        # What could not be added is in memory: the next attempt writes all of it.
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
        return None  # cut off, or none of ours
    match found:
        case [str(name), int(size), int(changed_ns)]:
            return Signature(name, size, changed_ns)
    return None
