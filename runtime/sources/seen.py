"""Records which images of a folder were seen: a journal that outlives the process."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.files import write_bytes
from twincar_edge.runtime.sources.missing import MissingImages
from twincar_edge.runtime.sources.signature import Signature

logger = logging.getLogger(__name__)

SLACK = 1000  # lines added, at least, before the journal is compacted
AGES_S = 3600.0  # how often, at least, the journal is rewritten while images are missing from the folder
_DAMAGED_S = 10**9  # no age
RETRY_S = 5.0  # after a failed write: a full disk stays full for a while


class SeenImages:
    """The images of a folder that were read, and a journal of those that were also handled.

    The journal is an append-only file with a line for each image. Each line begins with its line feed: a line truncated
    by a crash damages only itself, and is skipped when the file is read. The file is compacted when it is opened, and
    whenever there are too many lines of images that were forgotten. Lines are not synced one by one: images whose lines
    a power cut loses are delivered again.

    An image is forgotten when it has been missing from the folder for long (`MissingImages`). So that restarts do not
    keep it forever, the lines of missing images have their age, and the file is rewritten every hour and at the end.

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
        found = {} if path is None else _read(path)
        self.images = set(found)
        self._missing = MissingImages({image: age_s for image, age_s in found.items() if age_s}, monotonic=monotonic)
        self._aged_s = 0.0  # the clock of the missing images when their ages were written
        self._outdated = False  # the file has images that were forgotten, or other ages
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
        """Record that an image was handled; `save` writes its line."""
        self._noted.append(image)

    def listed(self, there: set[Signature], device: int) -> None:
        """Process a listing of the folder, on this device, and forget images that have been missing for long."""
        with self._lock:
            gone = self._missing.update(self.images, there, device)
            self.images -= gone
            self._unhandled -= gone
            self._outdated = self._outdated or bool(gone) or self._missing.any

    def save(self, *, at_once: bool = False) -> str | None:
        """Write the images that were noted since.

        After a failure, it waits some seconds before the next attempt, which writes all lines that are missing; with
        `at_once` it does not wait.

        Returns:
            Why the last attempt failed, in one line, or None. It does not raise: a full disk must not stop the run.
        """
        with self._lock:
            while self._noted:
                self._unwritten.append(self._noted.popleft())
            self._unhandled -= set(self._unwritten)
            if self._path is None:
                self._unwritten.clear()
                return None
            if self._problem is not None and not at_once and self._monotonic() < self._retry_at_s:
                return self._problem
            too_long = self._added + len(self._unwritten) > max(SLACK, len(self.images) // 2)
            outdated_s = self._missing.clock_s - self._aged_s if self._outdated else 0.0
            if too_long or outdated_s >= (1.0 if at_once else AGES_S):
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
        write_bytes(path, _lines(self.images - self._unhandled, self._missing.age_s))
        self._added = 0
        self._aged_s, self._outdated = self._missing.clock_s, False


def _read(path: Path) -> dict[Signature, float]:
    """Return the images, and for how many seconds each has been missing."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return dict(entry for line in data.split(b"\n") if (entry := _parse(line)) is not None)


def _lines(images: Iterable[Signature], age_s: Callable[[Signature], float] = lambda _: 0.0) -> bytes:
    ages = ((image, int(age_s(image))) for image in images)
    return b"".join(b"\n" + json.dumps((*image, age) if age else image).encode("ascii") for image, age in ages)


def _parse(line: bytes) -> tuple[Signature, float] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None  # truncated, or not written by this class
    match found:
        case [str(name), int(size), int(changed_ns)]:
            return Signature(name, size, changed_ns), 0.0
        case [str(name), int(size), int(changed_ns), int(missing_s)] if 0 <= missing_s < _DAMAGED_S:
            return Signature(name, size, changed_ns), float(missing_s)
    return None
