"""Keeps the pictures that the model was unsure of: the next training learns most from them.

A visit is hard if the answer did not go as far as the model's best guess, or if the second guess is close behind the
first. Its best crop goes into the folder of the guessed class: a layout that `twincar-edge train` reads, once a person
has looked at every picture and moved those whose guess is wrong.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.images import write_image
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.monitoring.status import CollectorStatus
from twincar_edge.runtime.sinks.base import Crop, DeliveryError, Sink
from twincar_edge.runtime.sinks.retention import RESERVE_BYTES, FreeBytes, Limits, free_bytes
from twincar_edge.runtime.sinks.snapshots import crop_name
from twincar_edge.runtime.sinks.visit_folder import VisitFolder

MARGIN = 0.2
MOST_A_MINUTE = 10
_MOST_NAME_BYTES = 200  # file systems allow 255 for a name
# The name begins with the time, so that the order of names is the order of time, and ends with a digest of the folder,
# so that a picture that a person has moved to another class is recognized as no longer ours.
_OURS = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[A-Za-z0-9_-]+-([0-9a-f]{8})\.hard\.jpg", re.ASCII)


def is_hard(event: Event, margin: float = MARGIN) -> bool:
    """Return whether an answer is one to learn from: it backs off from the best guess or leads by < `margin`."""
    best = event.top5[0]
    second = event.top5[1].probability if len(event.top5) > 1 else 0.0
    return event.name != best.name or best.probability - second < margin


def class_folder(name: str) -> str:
    """Return the name of the folder of a class: the class name, as far as a file system can hold it.

    Class names come from model files, so a slash becomes a dash, a leading dot an underscore, and a long name is cut. A
    data set reads any other name back unchanged.
    """
    safe = re.sub(r"[/\\\0]", "-", name)
    safe = re.sub(r"^\.", "_", safe)
    return safe.encode("utf-8", "replace")[:_MOST_NAME_BYTES].decode("utf-8", "ignore").strip()


class Collector(Sink):
    """A sink that keeps the newest hard examples within a size limit.

    Only files that it wrote, where it wrote them, count against the limit and are ever deleted: what a person has moved
    to another class stays. While the disk has less than `reserve_bytes` free, nothing is kept.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        margin: float = MARGIN,
        most_a_minute: int = MOST_A_MINUTE,
        reserve_bytes: int = RESERVE_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        free_bytes: FreeBytes = free_bytes,
    ) -> None:
        """Prepare; `open` makes the folder.

        Args:
            folder: gets one subfolder a class.
            limit_bytes: of all pictures together.
            margin: an answer whose first guess leads by less is hard.
            most_a_minute: how many are kept within a minute, so that a model which is unsure of everything does not
                wear out the disk.
            reserve_bytes: of the disk, left to events.
            monotonic: seconds that only rise.
            free_bytes: of the disk that a folder is on.
        """
        self._folder = _ClassFolders(
            folder, ".jpg", "hard example", Limits(limit_bytes, reserve_bytes=reserve_bytes), free_bytes=free_bytes
        )
        self._margin = margin
        self._monotonic = monotonic
        self._written_s: deque[float] = deque(maxlen=most_a_minute)
        self._kept = 0
        self._dropped = 0

    def open(self) -> None:
        """Make the folder, and index what an earlier run has left in it.

        Raises:
            InputError: it cannot be made or read.
        """
        self._folder.make()
        try:
            self._folder.index()
        except OSError as error:
            raise InputError(f"cannot collect in {self._folder.path}: {error.strerror}") from error

    def status(self) -> CollectorStatus:
        """Return what this run has kept and dropped, and the size of all pictures."""
        return CollectorStatus(self._kept, self._dropped, self._folder.bytes)

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Keep the picture of a visit that has ended, if it is hard and there is room: one a visit.

        Raises:
            DeliveryError: it cannot be written, or the disk has less free than the reserve.
        """
        if event.type != "end" or not crop_bgr.size or not is_hard(event, self._margin):
            return
        if self._too_many_this_minute():
            self._dropped += 1
            return
        folder = class_folder(event.top5[0].name)
        name = f"{Path(crop_name(event)).stem}-{_tag(folder)}.hard.jpg"
        try:
            self._folder.save(f"{folder}/{name}", lambda path: write_image(path, crop_bgr))
        except DeliveryError:
            self._dropped += 1
            raise
        self._kept += 1
        self._written_s.append(self._monotonic())

    def _too_many_this_minute(self) -> bool:
        oldest_s = self._written_s[0] if len(self._written_s) == self._written_s.maxlen else None
        return oldest_s is not None and self._monotonic() - oldest_s < 60


class _ClassFolders(VisitFolder):
    """A folder for each class. A picture that a person moved to another one is not ours any more."""

    abandoned_after = timedelta(0)  # the folder is used by one process only

    def folders(self) -> list[Path]:
        return [folder for folder in self.path.iterdir() if folder.is_dir() and not folder.is_symlink()]

    def owns(self, path: Path) -> bool:
        found = _OURS.fullmatch(path.name)
        return found is not None and found[1] == _tag(path.parent.name)


def _tag(folder: str) -> str:
    return hashlib.sha256(folder.encode()).hexdigest()[:8]
