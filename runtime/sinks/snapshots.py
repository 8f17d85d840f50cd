"""The best picture of each visit, in a folder that stays within its limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from twincar_edge.images import write_image
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.base import Crop, Sink
from twincar_edge.runtime.sinks.retention import FreeBytes, Limits, free_bytes
from twincar_edge.runtime.sinks.visit_folder import VisitFolder, visit_file_name

_SUFFIX = ".jpg"


def crop_name(event: Event) -> str:
    """Return the file name of a visit's crop: `20250131T142315.250Z-<id>.jpg`."""
    return visit_file_name(event.started_at, event.id, _SUFFIX)


def crop_folder(
    path: Path,
    limits: Limits | None = None,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    monotonic: Callable[[], float] = time.monotonic,
    free_bytes: FreeBytes = free_bytes,
) -> VisitFolder:
    """Return the folder of pictures at `path`; see `VisitFolder`."""
    return VisitFolder(path, _SUFFIX, "picture", limits, clock=clock, monotonic=monotonic, free_bytes=free_bytes)


class CropSaver(Sink):
    """Saves each visit's best crop as a JPEG, named by time and id; a class name never becomes a file name."""

    def __init__(self, folder: VisitFolder) -> None:
        """Save into `folder`, of `crop_folder`."""
        self._folder = folder

    def open(self) -> None:
        """Make the folder.

        Raises:
            InputError: it cannot be made.
        """
        self._folder.make()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write the picture, whole or not at all.

        Raises:
            DeliveryError: it cannot be written, or the disk has less free than the reserve.
        """
        if crop_bgr.size:
            self._folder.save(crop_name(event), lambda path: write_image(path, crop_bgr))

    def tend(self) -> None:
        """Delete what is too old.

        Raises:
            DeliveryError: the folder cannot be read, or a file not deleted.
        """
        self._folder.sweep()
