"""Checks that a folder is still on its original disk: an unmounted disk leaves its mount point behind."""

from __future__ import annotations

import errno
from pathlib import Path


class SameDisk:
    """Remembers the disk of a folder from the first check on."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; if it does not exist, its nearest parent is checked."""
        self._folder = folder.absolute()
        self._device: int | None = None

    def check(self) -> None:
        """Check that the folder is on its original disk.

        Raises:
            OSError: it is on another one, or cannot be read.
        """
        device = self._find()
        if self._device is None:
            self._device = device
        elif device != self._device:
            raise OSError(errno.ENODEV, f"{self._folder} is on another disk than before: is its disk still mounted?")

    def _find(self) -> int:
        for folder in (self._folder, *self._folder.parents):
            try:
                return folder.stat().st_dev
            except FileNotFoundError:
                continue
        raise FileNotFoundError(errno.ENOENT, f"no folder {self._folder}")
