"""Keeps the pictures that the model was unsure of: the next training learns most from them.

A visit is hard where the answer did not go as far as the model's best guess, or where the second guess is close behind
the first. Its best crop goes into a folder for each class, by the best guess: the layout that `twincar-edge train`
reads, once a person has looked at every picture, and moved those that the guess is wrong for.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from twincar_edge.errors import InputError
from twincar_edge.files import make_folder, remains
from twincar_edge.images import write_image
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.monitoring.status import CollectorStatus
from twincar_edge.runtime.sinks.base import Crop, DeliveryError
from twincar_edge.runtime.sinks.shelf import RESERVE_BYTES, FreeBytes, Shelf, free_bytes, shortage
from twincar_edge.runtime.sinks.snapshots import crop_name

MARGIN = 0.2
MOST_A_MINUTE = 10
_MOST_NAME_BYTES = 200  # file systems allow 255 for a name
# The time first, so that the order of names is the order of time; the folder last, so that a picture which a person has
# moved to another class is not ours any more.
_OURS = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[A-Za-z0-9_-]+-([0-9a-f]{8})\.hard\.jpg", re.ASCII)


def is_hard(event: Event, margin: float = MARGIN) -> bool:
    """Say whether an answer is one to learn from: it backed off from the best guess, or won by less than `margin`."""
    best = event.top5[0]
    second = event.top5[1].probability if len(event.top5) > 1 else 0.0
    return event.name != best.name or best.probability - second < margin


def class_folder(name: str) -> str:
    """Return the name of the folder of a class: the class name, where a file system can hold it.

    A slash becomes a dash, a dot at the start an underscore, and what is too long is cut: class names come from model
    files. A data set reads any other name back as it was.
    """
    safe = re.sub(r"[/\\\0]", "-", name)
    safe = re.sub(r"^\.", "_", safe)
    return safe.encode("utf-8", "replace")[:_MOST_NAME_BYTES].decode("utf-8", "ignore").strip()


class Collector:
    """A sink that keeps hard examples under a size limit, the newest of them.

    Only files that it wrote, where it wrote them, count against the limit and are ever removed: what a person has moved
    to another class stays. When the disk has less than `reserve_bytes` free, nothing is kept.
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
        """Prepare; the folder is made when the block is entered.

        Args:
            folder: one subfolder a class.
            limit_bytes: of all pictures together.
            margin: a first guess that leads by less is hard.
            most_a_minute: how many are kept within a minute, so that a model which knows nothing of what it sees does
                not wear out the disk.
            reserve_bytes: of the disk, left to events.
            monotonic: seconds that only rise.
            free_bytes: of the disk that a folder is on.
        """
        self._folder = folder
        self._margin = margin
        self._reserve_bytes = reserve_bytes
        self._monotonic = monotonic
        self._free_bytes = free_bytes
        self._written_s: deque[float] = deque(maxlen=most_a_minute)
        self._shelf = Shelf(limit_bytes)
        self._kept = 0
        self._dropped = 0

    def __enter__(self) -> Self:
        """Make the folder, and look at what an earlier run has left in it.

        Raises:
            InputError: it cannot be made or read.
        """
        make_folder(self._folder)
        found = []
        try:
            for folder in self._folder.iterdir():
                if folder.is_dir() and not folder.is_symlink():
                    for remnant in remains(folder):
                        remnant.unlink(missing_ok=True)
                    found += [path for path in folder.iterdir() if _is_ours(path)]
            self._shelf.fill(found)
            self._make_room()
        except OSError as error:
            raise InputError(f"cannot collect in {self._folder}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def status(self) -> CollectorStatus:
        """Return what was kept and dropped by this run, and what all pictures take."""
        return CollectorStatus(self._kept, self._dropped, self._shelf.bytes)

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Keep the picture of a visit that has ended, if it is hard and there is room: one a visit.

        Raises:
            DeliveryError: it cannot be written, or the disk's reserve is used up.
        """
        if event.type != "end" or not crop_bgr.size or not is_hard(event, self._margin):
            return
        if self._too_many_this_minute():
            self._dropped += 1
            return
        try:
            self._keep(event, crop_bgr)
        except (OSError, InputError) as error:
            self._dropped += 1
            raise DeliveryError(f"a hard example is not kept: {error}") from error

    def _too_many_this_minute(self) -> bool:
        oldest_s = self._written_s[0] if len(self._written_s) == self._written_s.maxlen else None
        return oldest_s is not None and self._monotonic() - oldest_s < 60

    def _keep(self, event: Event, crop_bgr: Crop) -> None:
        problem = shortage(self._free_bytes(self._folder), self._reserve_bytes)
        if problem is not None:
            raise InputError(f"the disk of {self._folder} {problem}, and the rest is for events")
        folder = class_folder(event.top5[0].name)
        path = self._folder / folder / f"{Path(crop_name(event)).stem}-{_tag(folder)}.hard.jpg"
        write_image(path, crop_bgr)
        self._shelf.add(path)
        self._kept += 1
        self._written_s.append(self._monotonic())
        self._make_room()

    def _make_room(self) -> None:
        for path in self._shelf.prune():
            with contextlib.suppress(OSError):  # there is more in it
                path.parent.rmdir()  # a class without a picture is none that a data set may have


def _tag(folder: str) -> str:
    return hashlib.sha256(folder.encode()).hexdigest()[:8]


def _is_ours(path: Path) -> bool:
    found = _OURS.fullmatch(path.name)
    return found is not None and found[1] == _tag(path.parent.name) and path.is_file() and not path.is_symlink()
