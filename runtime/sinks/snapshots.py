"""The sink that saves the best picture of each visit, in a folder with limits."""

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
        """Save to `folder`, from `crop_folder`."""
        self._folder = folder

    def open(self) -> None:
        """Create the folder.

        Raises:
            InputError: the folder cannot be created.
        """
        self._folder.make()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write the picture atomically.

        Raises:
            DeliveryError: the file cannot be written, or less than the reserve is free.
        """
        if crop_bgr.size:
            self._folder.save(crop_name(event), lambda path: write_image(path, crop_bgr))

    def tend(self) -> None:
        """Delete expired pictures.

        Raises:
            DeliveryError: the folder cannot be read, or a file cannot be deleted.
        """
        self._folder.sweep()
