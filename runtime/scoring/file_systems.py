"""One interface for local files and for the file systems that pyarrow and fsspec open."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.files import is_file, is_folder, write_bytes
from twincar_edge.images import MAX_IMAGE_BYTES, ImageError, read_image_bytes

EXTRA = "score"  # brings pyarrow
COPIED_BYTES = 2**20  # copied at a time
_LONGEST_REASON = 240


class Listed(NamedTuple):
    """A file or folder in a listing; the size is in bytes, or None if it was not requested."""

    name: str
    folder: bool
    size: int | None = None


class Storage(ABC):
    """A file system. Paths are as the user writes them, URLs in full.

    Attributes:
        remote: reads are network round trips, so files should be read in parallel.
    """

    remote: bool

    @abstractmethod
    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what a path is; None if it does not exist."""

    @abstractmethod
    def children(self, folder: str) -> Iterator[Listed]:
        """Yield the content of a folder in any order, without hidden names and symbolic links to folders."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open a file for reading; it is seekable."""

    @abstractmethod
    def read_image(self, path: str) -> bytes:
        """Return the bytes of an image file.

        Raises:
            ImageError: this file is missing, not readable, or too large.
            InputError: the storage fails.
        """

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically; create folders as needed."""

    @abstractmethod
    def local_file(self, path: str) -> Any:
        """Return a context manager whose value is a local path of the file."""


class LocalStorage(Storage):
    """The files of this machine."""

    remote = False

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what a path is."""
        return "file" if is_file(Path(path)) else "folder" if is_folder(Path(path)) else None

    def children(self, folder: str) -> Iterator[Listed]:
        """Yield the content of a folder; it is streamed, so memory does not grow with the folder."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        is_dir = entry.is_dir(follow_symlinks=False)
                        if is_dir or entry.is_file():
                            yield Listed(entry.name, is_dir)
        except OSError as error:
            raise InputError(f"cannot list the folder {folder}: {error.strerror}") from error

    def size(self, path: str) -> int:
        """Return the size of a file."""
        try:
            return Path(path).stat().st_size
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error

    def open(self, path: str) -> BinaryIO:
        """Open a file."""
        try:
            return Path(path).open("rb")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error

    def read_image(self, path: str) -> bytes:
        """Return the bytes of an image file."""
        return read_image_bytes(Path(path))

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        write_bytes(Path(path), data)

    @contextmanager
    def local_file(self, path: str) -> Iterator[Path]:
        """Yield the path itself."""
        yield Path(path)


class RemoteStorage(Storage):
    """A file system of pyarrow, or of fsspec behind pyarrow's interface, for one bucket or host.

    An object store shows a file only when its upload is complete, so `write` needs no temporary name.
    """

    remote = True

    def __init__(self, filesystem: Any, root: str, base: str, query: str) -> None:
        """Wrap a file system; `root` is the URL of its folder `base`, and `query` the end of all URLs."""
        self._fs = filesystem
        self._root = root
        self._base = f"{base.rstrip('/')}/" if base else ""
        self._query = query

    def _inner(self, path: str) -> str:
        return (self._base + path.removeprefix(self._root).removesuffix(self._query).lstrip("/")).rstrip("/")

    @contextmanager
    def _reporting(self, doing: str, path: str) -> Iterator[None]:
        try:
            yield
        except TwincarError:
            raise
        except (OSError, ValueError) as error:  # pyarrow raises OSError for every error of a service
            raise InputError(f"cannot {doing} {shown(path)}: {reason(error)}") from error

    def _info(self, path: str) -> Any:
        with self._reporting("read", path):
            return self._fs.get_file_info(self._inner(path))

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what a path is."""
        import pyarrow.fs

        kind = self._info(path).type
        if kind == pyarrow.fs.FileType.File:
            return "file"
        return "folder" if kind == pyarrow.fs.FileType.Directory else None

    def children(self, folder: str) -> Iterator[Listed]:
        """Yield the content of a folder; the names of one folder are in memory at a time."""
        import pyarrow.fs

        with self._reporting("list", folder):
            found = self._fs.get_file_info(pyarrow.fs.FileSelector(self._inner(folder)))
        for info in found:
            if not info.base_name.startswith("."):
                yield Listed(info.base_name, info.type == pyarrow.fs.FileType.Directory, info.size)

    def size(self, path: str) -> int:
        """Return the size of a file."""
        return int(self._info(path).size or 0)

    def open(self, path: str) -> BinaryIO:
        """Open a file; pyarrow's files have the interface of Python's."""
        with self._reporting("read", path):
            return cast(BinaryIO, self._fs.open_input_file(self._inner(path)))

    def read_image(self, path: str) -> bytes:
        """Return the bytes of an image file.

        Raises:
            ImageError: the file is missing or access is denied.
            InputError: any other error, such as a network failure, because it would affect all files.
        """
        try:
            with self._fs.open_input_stream(self._inner(path)) as stream:
                data = stream.read(MAX_IMAGE_BYTES + 1)
        except FileNotFoundError as error:
            raise ImageError("missing", f"cannot read {shown(path)}: No such file or directory") from error
        except OSError as error:
            if isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error):
                raise ImageError("unreadable", f"cannot read {shown(path)}: {reason(error)}") from error
            raise InputError(f"cannot read {shown(path)}: {reason(error)}") from error
        return bytes(data)  # `decode_image` refuses a file that is too large

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        inner = self._inner(path)
        with self._reporting("write", path):
            if not self._fs.type_name.startswith(("s3", "gcs", "abfs")):
                self._fs.create_dir(inner.rpartition("/")[0], recursive=True)
            with self._fs.open_output_stream(inner) as stream:
                stream.write(data)

    @contextmanager
    def local_file(self, path: str) -> Iterator[Path]:
        """Yield a temporary copy, and remove it at the end."""
        with temporary_file(path) as copy:
            with self._reporting("read", path), self._fs.open_input_stream(self._inner(path)) as stream:
                shutil.copyfileobj(stream, copy, COPIED_BYTES)
            copy.flush()
            yield Path(copy.name)


class OSErrorsOnly:
    """A file system of fsspec, or one of its files, whose failures are OSErrors, as they are in pyarrow.

    fsspec passes on whatever a service's client library raises: errors of httpx, botocore, google-auth or paramiko.
    """

    def __init__(self, wrapped: Any) -> None:
        """Wrap a file system or a file."""
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        """Return an attribute; a method raises OSErrors, and the file that it opens does, too."""
        found = getattr(self._wrapped, name)
        if not callable(found):
            return found

        def call(*positional: Any, **named: Any) -> Any:
            try:
                result = found(*positional, **named)
            except (OSError, ValueError, NotImplementedError):
                raise
            except Exception as error:
                raise OSError(reason(error)) from error
            return OSErrorsOnly(result) if hasattr(result, "read") else result

        return call


def temporary_file(path: str) -> Any:
    """Return a temporary file with the suffix of a path or URL; it is a context manager that removes the file."""
    return tempfile.NamedTemporaryFile(prefix="twincar-", suffix=Path(shown(path)).suffix)


def shown(path: str) -> str:
    """Return a path for messages and results: a URL without its query, which may be a signature."""
    return path.partition("?")[0] if "://" in path else path


def reason(error: Exception) -> str:
    """Return the first line of a storage's error, shortened, without the service's request id and queries of URLs."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r" \(Request ID: [^)]*\)|(?<=://)([^\s?'\"]*)\?[^\s'\"]*", r"\1", line)[:_LONGEST_REASON]
