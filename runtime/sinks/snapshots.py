"""The best picture of each visit, in a folder that does not outgrow its limits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from twincar_edge.images import write_image
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.base import Crop
from twincar_edge.runtime.sinks.shelf import FreeBytes, free_bytes
from twincar_edge.runtime.sinks.visit_folder import VisitFolder, visit_file_name

_SUFFIX = ".jpg"


def crop_name(event: Event) -> str:
    """Return the file name of a visit's crop: `20250131T142315.250Z-<id>.jpg`."""
    return visit_file_name(event.started_at, event.id, _SUFFIX)


class CropSaver:
    """Saves each visit's best crop as a JPEG, named by time and id; a class name never becomes a file name.

    `VisitFolder` says what limits, age and reserve do.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int | None = None,
        age: timedelta | None = None,
        reserve_bytes: int = 0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        free_bytes: FreeBytes = free_bytes,
    ) -> None:
        """Save into `folder`, which is made when it is needed."""
        self._folder = VisitFolder(
            folder,
            _SUFFIX,
            "picture",
            limit_bytes=limit_bytes,
            age=age,
            reserve_bytes=reserve_bytes,
            clock=clock,
            free_bytes=free_bytes,
        )

    def __enter__(self) -> Self:
        """Make the folder.

        Raises:
            InputError: it cannot be made.
        """
        self._folder.make()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write the picture, whole or not at all, and remove those that the limits have no room for.

        Raises:
            DeliveryError: it cannot be written, or the disk's reserve is used up.
        """
        if crop_bgr.size:
            self._folder.save(crop_name(event), lambda path: write_image(path, crop_bgr))
