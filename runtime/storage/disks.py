"""Whether a folder is still on the disk on which it was: a mount that has gone leaves its mount point behind."""

from __future__ import annotations

import errno
from pathlib import Path


class SameDisk:
    """Remembers the disk of a folder from the first check on."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which need not exist: then its nearest parent counts."""
        self._folder = folder.absolute()
        self._device: int | None = None

    def check(self) -> None:
        """Make sure that the folder is on the disk on which it was.

        Raises:
            OSError: it is on another one, or cannot be looked at.
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
