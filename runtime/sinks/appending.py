"""An append-only file of whole records, shared by the JSON lines and CSV sinks."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.files import check_is_file, identity, make_folder, path_aside
from twincar_edge.runtime.sinks.base import DeliveryError
from twincar_edge.runtime.storage.disks import NO_SPACE, SameDisk

logger = logging.getLogger(__name__)

# What may come before the first record: zeros after a power cut, and the mark that spreadsheets put before UTF-8.
_BLANK = b"\0 \r\n\t\xef\xbb\xbf"
_BLOCK = 4096


class AppendedFile:
    """Appends records atomically and flushes each to disk.

    A record that was truncated by a power cut or a full disk never runs into the next one. If the file was moved,
    deleted or emptied, as by logrotate, a new one is created. A file with other content is not appended to.
    """

    def __init__(self, path: Path, begins: bytes, header: bytes = b"") -> None:
        """Append to `path`.

        Args:
            path: the file; created if missing.
            begins: how a file of such records begins, in all versions.
            header: the first line of a new file. An existing file with another header is renamed and kept.
        """
        self._path = path
        self._begins = begins
        self._header = header
        self._descriptor: int | None = None
        self._disk = SameDisk(path.parent)

    def open(self) -> None:
        """Open the file. A full disk is not an error: `append` retries.

        Raises:
            InputError: the file is not writable, or holds something else.
        """
        try:
            self._open()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise InputError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def append(self, record: bytes) -> None:
        """Write a record; return once it is on disk.

        Raises:
            DeliveryError: the disk is full or failing, or the file cannot be reopened. Nothing was written.
        """
        try:
            descriptor = self._current()
            self._write(descriptor, record)
        except OSError as error:
            raise DeliveryError(f"cannot write {self._path}: {error.strerror}") from error
        except InputError as error:
            raise DeliveryError(str(error)) from error

    def _current(self) -> int:
        if self._descriptor is not None:
            opened = os.fstat(self._descriptor)
            if identity(self._path) == (opened.st_dev, opened.st_ino) and opened.st_size:
                return self._descriptor
            self.close()
        return self._open()

    def _open(self) -> int:
        self._disk.check()
        make_folder(self._path.parent)
        self._check_beginning()
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if not size:
                self._write(descriptor, self._header)
            elif os.pread(descriptor, 1, size - 1) != b"\n":
                self._write(descriptor, b"\n")
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return descriptor

    def _check_beginning(self) -> None:
        """Refuse a file of something else; rename one of another version, since rows below its header would be wrong.

        Raises:
            InputError: the file holds something else, or is not a file.
        """
        check_is_file(self._path)
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            found = file.read(max(_BLOCK, len(self._header)))
        begins = found.lstrip(_BLANK)[: len(self._begins)]
        if not self._begins.startswith(begins):
            raise InputError(f"{self._path} exists and holds something other than events: name another file")
        if not found.startswith(self._header) and found:
            aside = path_aside(self._path, "other")
            self._path.rename(aside)
            logger.warning("%s has a different header: kept as %s, creating a new one", self._path, aside.name)

    @staticmethod
    def _write(descriptor: int, data: bytes) -> None:
        size = os.fstat(descriptor).st_size
        try:
            remaining = data
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
            os.fdatasync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
