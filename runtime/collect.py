"""Collects hard examples: pictures that the model was unsure of, which help the next training most.

A visit is hard if its answer backs off from the best guess, or if the second guess is close behind the first. Its best
crop goes into the folder of the guessed class. A person reviews the pictures and moves those with a wrong guess; then
`twincar-edge train` can read the folders.
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
MAX_PER_MINUTE = 10
_MAX_NAME_BYTES = 200  # file systems allow 255 for a name
# The name begins with the time, so that sorting by name sorts by time. It ends with a digest of the folder's name, so
# that a picture that a person moved to another class no longer matches its folder.
_OURS = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[A-Za-z0-9_-]+-([0-9a-f]{8})\.hard\.jpg", re.ASCII)


def is_hard(event: Event, margin: float = MARGIN) -> bool:
    """Return whether an answer backs off from the best guess, or leads the second guess by less than `margin`."""
    best = event.top5[0]
    second = event.top5[1].probability if len(event.top5) > 1 else 0.0
    return event.name != best.name or best.probability - second < margin


def class_folder(name: str) -> str:
    """Return the folder name for a class: the class name, made safe for the file system.

    Class names come from model files and are untrusted: a slash becomes a dash, a leading dot an underscore, and a long
    name is cut. All other names stay as they are, so a data set reads them back unchanged.
    """
    safe = re.sub(r"[/\\\0]", "-", name)
    safe = re.sub(r"^\.", "_", safe)
    return safe.encode("utf-8", "replace")[:_MAX_NAME_BYTES].decode("utf-8", "ignore").strip()


class Collector(Sink):
    """A sink that saves the newest hard examples within a size limit.

    Only files that it wrote, in the folder where it wrote them, count against the limit and may be deleted. Pictures
    that a person moved to another class stay. While the disk has less than `reserve_bytes` free, nothing is saved.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        margin: float = MARGIN,
        max_per_minute: int = MAX_PER_MINUTE,
        reserve_bytes: int = RESERVE_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        free_bytes: FreeBytes = free_bytes,
    ) -> None:
        """Store the settings; `open` creates the folder.

        Args:
            folder: gets one subfolder per class.
            limit_bytes: the limit on the total size of the pictures.
            margin: an answer is hard if its first guess leads by less.
            max_per_minute: the rate limit; without it, a model that is unsure of everything would wear out the disk.
            reserve_bytes: free disk space that is reserved for events.
            monotonic: the monotonic clock, in seconds.
            free_bytes: returns the free space of the disk that holds a folder.
        """
        self._folder = _ClassFolders(
            folder, ".jpg", "hard example", Limits(limit_bytes, reserve_bytes=reserve_bytes), free_bytes=free_bytes
        )
        self._margin = margin
        self._monotonic = monotonic
        self._written_s: deque[float] = deque(maxlen=max_per_minute)
        self._saved = 0
        self._dropped = 0

    def open(self) -> None:
        """Create the folder, and index the pictures of earlier runs.

        Raises:
            InputError: the folder cannot be created or read.
        """
        self._folder.make()
        try:
            self._folder.sweep()
        except DeliveryError as error:
            raise InputError(f"cannot collect hard examples: {error}") from error

    def status(self) -> CollectorStatus:
        """Return how many pictures this run has saved and dropped, and the total size of the folder."""
        return CollectorStatus(self._saved, self._dropped, self._folder.bytes)

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Save the picture of an ended visit if it is hard and the rate limit allows it.

        Raises:
            DeliveryError: it cannot be written, or the disk has less free space than the reserve.
        """
        if event.type != "end" or not crop_bgr.size or not is_hard(event, self._margin):
            return
        if self._rate_limited():
            self._dropped += 1
            return
        folder = class_folder(event.top5[0].name)
        name = f"{Path(crop_name(event)).stem}-{_tag(folder)}.hard.jpg"
        try:
            self._folder.save(f"{folder}/{name}", lambda path: write_image(path, crop_bgr))
        except DeliveryError:
            self._dropped += 1
            raise
        self._saved += 1
        self._written_s.append(self._monotonic())

    def _rate_limited(self) -> bool:
        oldest_s = self._written_s[0] if len(self._written_s) == self._written_s.maxlen else None
        return oldest_s is not None and self._monotonic() - oldest_s < 60


class _ClassFolders(VisitFolder):
    """One folder per class. A picture that a person moved to another folder is no longer owned."""

    abandoned_after = timedelta(0)  # only one process uses the folder

    def folders(self) -> list[Path]:
        return [folder for folder in self.path.iterdir() if folder.is_dir() and not folder.is_symlink()]

    def owns(self, path: Path) -> bool:
        found = _OURS.fullmatch(path.name)
        return found is not None and found[1] == _tag(path.parent.name)


def _tag(folder: str) -> str:
    return hashlib.sha256(folder.encode()).hexdigest()[:8]
