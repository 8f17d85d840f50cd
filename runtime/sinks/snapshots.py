"""The best picture of each visit, in a folder that does not outgrow its limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from twincar_edge.errors import InputError
from twincar_edge.files import make_folder
from twincar_edge.images import write_image
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.base import Crop, DeliveryError
from twincar_edge.runtime.sinks.shelf import FreeBytes, Shelf, free_bytes, shortage

# Begins with the time, so that the order of names is the order of time.
_OURS = re.compile(r"(\d{8}T\d{6}\.\d{3})Z-[A-Za-z0-9_-]+\.jpg", re.ASCII)


def crop_name(event: Event) -> str:
    """Return the file name of a visit's crop: `20250131T142315.250Z-<id>.jpg`."""
    started = event.started_at.astimezone(UTC)
    return f"{started:%Y%m%dT%H%M%S}.{started.microsecond // 1000:03d}Z-{re.sub(r'[^A-Za-z0-9-]', '_', event.id)}.jpg"


def _taken_at(name: str) -> datetime | None:
    """Return when the visit of a crop began, or None where the name is none that `crop_name` gives."""
    found = _OURS.fullmatch(name)
    try:
        return None if found is None else datetime.strptime(found[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return None


class CropSaver:
    """Saves each visit's best crop as a JPEG, named by time and id; a class name never becomes a file name.

    The oldest go when all together exceed `limit_bytes`, and those older than `age` go too. Only files with names that
    this class gives are ever removed. When the disk has less than `reserve_bytes` free, no picture is saved: what is
    left belongs to the events.
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
        self._folder = folder
        self._age = age
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._free_bytes = free_bytes
        self._limited = limit_bytes is not None or age is not None
        self._shelf = Shelf(limit_bytes)
        self._filled = False

    def __enter__(self) -> Self:
        """Make the folder.

        Raises:
            InputError: it cannot be made.
        """
        make_folder(self._folder)
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
        if not crop_bgr.size:
            return
        path = self._folder / crop_name(event)
        try:
            if self._limited:
                self._fill()
                self._shelf.prune(self._is_too_old)
            problem = shortage(self._free_bytes(self._folder), self._reserve_bytes)
            if problem is not None:
                raise DeliveryError(
                    f"no pictures are saved in {self._folder} while its disk {problem}: the rest is for events"
                )
            write_image(path, crop_bgr)
            if self._limited:
                self._shelf.add(path)
        except (OSError, InputError) as error:
            raise DeliveryError(f"a picture is not saved: {error}") from error
        if self._limited:
            self._shelf.prune(self._is_too_old)

    def _fill(self) -> None:
        """Learn from the folder, once, what is ours in it."""
        if not self._filled:
            entries = self._folder.iterdir()
            self._shelf.fill(
                path for path in entries if _taken_at(path.name) and path.is_file() and not path.is_symlink()
            )
            self._filled = True

    def _is_too_old(self, path: Path) -> bool:
        taken_at = _taken_at(path.name)
        return self._age is not None and taken_at is not None and taken_at < self._clock() - self._age
