"""One interface for local files and for the file systems that pyarrow and fsspec open."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

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
    def open(self, path: str) -> io.BufferedReader:
        """Open a file for reading; it is seekable. Only the reads of a local file raise OSErrors.

        Raises:
            InputError: the file cannot be opened, or, while it is read, the storage fails.
        """

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
        """Return a context manager whose value is a local path of the file.

        Raises:
            InputError: the storage fails, or there is no space for a copy.
        """


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

    def open(self, path: str) -> io.BufferedReader:
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

    def open(self, path: str) -> io.BufferedReader:
        """Open a file."""
        with self._reporting("read", path):
            return buffered(path, self._fs.open_input_file(self._inner(path)))

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
        except (OSError, ValueError) as error:
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
        with self._reporting("read", path):
            stream = self._fs.open_input_stream(self._inner(path))
        with temporary_copy(path, buffered(path, stream)) as copy:
            yield copy


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


class _RemoteFile(io.RawIOBase):
    """A file of pyarrow or fsspec. Its failures are InputErrors, so that no reader takes them for damaged content."""

    def __init__(self, path: str, file: Any, errors: tuple[type[Exception], ...]) -> None:
        self._path = path
        self._file = file
        self._errors = errors

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0, /) -> int:
        with self._reporting():
            self._file.seek(offset, whence)
        return self.tell()

    def readinto(self, buffer: Any, /) -> int:
        with self._reporting():
            return int(self._file.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise InputError(f"cannot read {shown(self._path)}: {reason(error)}") from error


def buffered(path: str, file: Any, errors: tuple[type[Exception], ...] = (OSError, ValueError)) -> io.BufferedReader:
    """Return an opened remote file with a buffer. Its reads raise an InputError instead of `errors`."""
    return io.BufferedReader(_RemoteFile(path, file, errors), COPIED_BYTES)


@contextmanager
def temporary_copy(path: str, file: BinaryIO) -> Iterator[Path]:
    """Yield a temporary local copy of an opened remote file, with its suffix; remove it at the end.

    Raises:
        InputError: the storage fails, or the copy cannot be written.
    """
    with ExitStack() as stack:
        try:
            with file:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="twincar-"))
                copy = Path(folder) / f"copy{Path(shown(path)).suffix}"
                with copy.open("wb") as target:
                    shutil.copyfileobj(file, target, COPIED_BYTES)
        except OSError as error:
            raise InputError(
                f"cannot copy {shown(path)} to the temporary folder: {error.strerror}; free space there, or set TMPDIR"
            ) from error
        yield copy


def shown(path: str) -> str:
    """Return a path for messages and results: a URL without its query, which may be a signature."""
    return path.partition("?")[0] if "://" in path else path


def reason(error: Exception) -> str:
    """Return the first line of a storage's error, shortened, without the service's request id and queries of URLs."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r" \(Request ID: [^)]*\)|(?<=://)([^\s?'\"]*)\?[^\s'\"]*", r"\1", line)[:_LONGEST_REASON]
