"""Reads tars from untrusted sources forward, in bounded memory, with the standard library's parser."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from typing import Any, BinaryIO, Self, cast

HEADER_BYTES = 2**20  # a path has at most 4096 bytes, an extended attribute 64 KiB
_SKIPPED_BYTES = 2**16  # read at a time
_GZIP = b"\x1f\x8b"
# The parser reads nested headers recursively.
DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, RecursionError)


class _Member(tarfile.TarInfo):
    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """Read a member's headers. A bad one is an error; `TarFile` takes it for the end of the archive."""
        try:
            return super().fromtarfile(archive)
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]  # the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


class _Forward:
    """A file that is read forward only; `header_bytes` limits the next reads, unless it is None."""

    def __init__(self, file: BinaryIO) -> None:
        self.header_bytes: int | None = None
        self._file = file
        self._position = 0

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if size < 0:  # for a file, this means all of it
            raise tarfile.ReadError("a negative size")
        if self.header_bytes is not None:
            self.header_bytes -= size
            if self.header_bytes < 0:
                raise tarfile.ReadError(f"headers of more than {HEADER_BYTES >> 10} KiB")
        data = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.StreamError("a negative size")
        while self._position < position:
            skipped = len(self._file.read(min(position - self._position, _SKIPPED_BYTES)))
            if not skipped:
                return
            self._position += skipped


class ForwardTar(tarfile.TarFile):
    """A tar, also compressed with gzip. It iterates over its members and forgets them.

    A damaged or hostile one raises one of `DAMAGE`.
    """

    tarinfo = _Member

    def __init__(self, file: io.BufferedReader) -> None:
        """Read the first headers of an opened file."""
        plain = file if file.peek(2)[:2] != _GZIP else gzip.GzipFile(fileobj=file)
        self._forward = _Forward(cast(BinaryIO, plain))
        super().__init__(fileobj=cast(Any, self._forward), errorlevel=1)

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member; None at the end."""
        global_bytes = sum(len(name) + len(value) for name, value in self.pax_headers.items())
        self.members: list[tarfile.TarInfo] = []  # the list would grow with the tar
        self._forward.header_bytes = HEADER_BYTES - global_bytes
        try:
            return super().next()
        finally:
            self._forward.header_bytes = None
