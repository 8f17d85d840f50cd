"""Which images of a folder were seen before: a journal that outlives the process."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from twincar_edge.errors import InputError
from twincar_edge.files import write_bytes

logger = logging.getLogger(__name__)

SLACK = 1000  # lines added, at least, before the journal is compacted
RETRY_S = 5.0  # after a failed write: a full disk stays full for a while


class Signature(NamedTuple):
    """What identifies an image: the file's name, its size in bytes, and its modification time."""

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


class SeenImages:
    """The images of a folder that were read, and a journal of those that were also handled.

    The journal is an append-only file with a line for each image. Each line begins with its line feed: a line truncated
    by a crash damages only itself, and is skipped when the file is read. The file is compacted when it is opened, and
    whenever there are too many lines of images that were forgotten. Lines are not synced one by one: images whose lines
    a power cut loses are delivered again.

    One thread reads the folder and saves. `note` may be called from any thread and never blocks: the folder or the disk
    of the journal may be slow, or hang.

    Attributes:
        images: those that were read, in this run or an earlier one.
    """

    def __init__(self, path: Path | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Read the journal, if there is one; without a `path`, nothing is written. `monotonic` is a clock in seconds.

        Raises:
            InputError: it is there and cannot be read.
        """
        self._path = path
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self.images = set() if path is None else _read(path)
        self._unhandled: set[Signature] = set()
        self._noted: deque[Signature] = deque()
        self._unwritten: list[Signature] = []
        self._added = 0
        self._problem: str | None = None
        self._retry_at_s = -math.inf
        if path is not None:
            self._attempt(self._rewrite)

    def add(self, image: Signature) -> None:
        """Remember an image that was read; its line is written after `note`."""
        with self._lock:
            self.images.add(image)
            self._unhandled.add(image)

    def note(self, image: Signature) -> None:
        """Note that an image was handled; `save` writes its line."""
        self._noted.append(image)

    def listed(self, there: set[Signature]) -> None:
        """Forget the images that are not in a listing of the folder."""
        with self._lock:
            self.images &= there
            self._unhandled &= there

    def save(self, *, at_once: bool = False) -> str | None:
        """Write the images that were noted since.

        After a failure, it waits some seconds before the next attempt, which writes all lines that are missing; with
        `at_once` it does not wait.

        Returns:
            Why the last attempt failed, in one line, or None. It does not raise: a full disk must not stop the run.
        """
        with self._lock:
            while self._noted:
                image = self._noted.popleft()
                self._unhandled.discard(image)
                if self._path is not None:
                    self._unwritten.append(image)
            if self._problem is not None and not at_once and self._monotonic() < self._retry_at_s:
                return self._problem
            if self._added + len(self._unwritten) > max(SLACK, len(self.images) // 2):
                self._attempt(self._rewrite)
            elif self._unwritten or self._problem is not None:
                self._attempt(self._append)
            return self._problem

    def _attempt(self, write: Callable[[Path], None]) -> None:
        assert self._path is not None
        try:
            write(self._path)
        except (OSError, InputError) as error:
            problem = str(error) if isinstance(error, InputError) else f"cannot write {self._path}: {error.strerror}"
            if self._problem is None:
                logger.warning("%s; after a restart, images may be given twice", problem)
            self._problem = problem
            self._retry_at_s = self._monotonic() + RETRY_S
        else:
            self._problem = None
            self._unwritten.clear()

    def _append(self, path: Path) -> None:
        with path.open("ab") as file:
            file.write(_lines(self._unwritten))
        self._added += len(self._unwritten)

    def _rewrite(self, path: Path) -> None:
        write_bytes(path, _lines(self.images - self._unhandled))
        self._added = 0


def _read(path: Path) -> set[Signature]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return {image for line in data.split(b"\n") if (image := _parse(line)) is not None}


def _lines(images: Iterable[Signature]) -> bytes:
    return b"".join(b"\n" + json.dumps(image).encode("ascii") for image in images)


def _parse(line: bytes) -> Signature | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None  # truncated, or not written by this class
    match found:
        case [str(name), int(size), int(changed_ns)]:
            return Signature(name, size, changed_ns)
    return None
