"""Disks that are full or unmounted. An unmounted disk leaves its mount point behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})  # error numbers of a full disk


class SameDisk:
    """Remembers the mount point of a folder from the first check on.

    Device numbers do not identify a disk: a USB disk or network drive that returns may have another one.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder, which need not exist yet."""
        self._folder = folder.absolute()
        self._mount: Path | None = None

    def check(self) -> None:
        """Check that a disk is mounted where it was, or below that.

        Raises:
            OSError: it is not, or cannot be read.
        """
        mount = self._find()
        if self._mount is not None and not mount.is_relative_to(self._mount):
            raise OSError(errno.ENODEV, f"the disk of {self._folder} is no longer mounted at {self._mount}")
        self._mount = mount

    def _find(self) -> Path:
        folder = Path(os.path.realpath(self._folder))
        return next(path for path in (folder, *folder.parents) if path.is_mount())
