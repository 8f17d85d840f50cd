"""Storage of inputs and outputs: local files, or any file system that pyarrow or fsspec opens by URL."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from twincar_edge.errors import InputError, TwincarError, require
from twincar_edge.files import is_file, is_folder, make_folder, write_bytes
from twincar_edge.images import MAX_IMAGE_BYTES, ImageError, read_image_bytes

EXTRA = "score"  # brings pyarrow
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

    def __init__(self, filesystem: Any, root: str, query: str) -> None:
        """Wrap a file system; `root` and `query` surround its own paths in URLs."""
        self._fs = filesystem
        self._root = root
        self._query = query

    def _inner(self, path: str) -> str:
        return path.removeprefix(self._root).removesuffix(self._query).rstrip("/")

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
        suffix = Path(self._inner(path)).suffix
        with tempfile.NamedTemporaryFile(prefix="twincar-", suffix=suffix) as copy:
            with self._reporting("read", path), self._fs.open_input_stream(self._inner(path)) as stream:
                shutil.copyfileobj(stream, copy, 2**20)
            copy.flush()
            yield Path(copy.name)


_LOCAL = LocalStorage()


def storage_of(path: str) -> Storage:
    """Return the file system of a path or URL.

    Raises:
        InputError: the scheme is unknown, or the URL contains a user or password.
        MissingExtraError: pyarrow or the scheme's package is not installed.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        return _LOCAL
    host = rest.partition("/")[0]
    if "@" in host:
        raise InputError(
            f"the {scheme}:// URL contains a user or password: pass credentials in environment variables instead, such "
            "as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    inner, mark, query = rest.partition("?")
    return _open(scheme, inner.partition("/")[0], mark + query)


def join(folder: str, *names: str) -> str:
    """Join a folder and names below it; a URL's query stays at the end."""
    if "://" not in folder:
        return "/".join([folder.rstrip("/") or "/", *names]) if folder != "/" else "/" + "/".join(names)
    place, mark, query = folder.partition("?")
    return "/".join([place.rstrip("/"), *names]) + mark + query


def shown(path: str) -> str:
    """Return a path for messages and results: a URL without its query, which may be a signature."""
    return path.partition("?")[0] if "://" in path else path


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path equals a folder or is below it."""
    inner, outer = (shown(place) if "://" in place else str(Path(place).absolute()) for place in (path, folder))
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")


def make_output(folder: str) -> None:
    """Create a local output folder; object stores need none.

    Raises:
        InputError: the folder cannot be created.
    """
    if "://" not in folder:
        make_folder(Path(folder))


def reason(error: Exception) -> str:
    """Return the first line of a storage's error, shortened, without the service's request id and queries of URLs."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r" \(Request ID: [^)]*\)|(?<=://)([^\s?'\"]*)\?[^\s'\"]*", r"\1", line)[:_LONGEST_REASON]


@lru_cache(maxsize=64)
def _open(scheme: str, host: str, query: str) -> RemoteStorage:
    pyarrow = require("pyarrow", EXTRA)
    fs: Any = require("pyarrow.fs", EXTRA)
    url = f"{scheme}://{host}{query}"
    try:
        filesystem, _ = fs.FileSystem.from_uri(url)
        # pyarrow's paths start with the bucket for object stores
        root = f"{scheme}://" if scheme in ("s3", "gs", "gcs", "abfs", "abfss") else f"{scheme}://{host}"
        return RemoteStorage(filesystem, root, query)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        if "nrecognized filesystem" not in str(error):
            raise InputError(f"cannot open {shown(url)}: {reason(error)}") from error
    except OSError as error:
        raise InputError(f"cannot open {shown(url)}: {reason(error)}") from error
    fsspec: Any = require("fsspec", EXTRA)
    try:
        return RemoteStorage(fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme))), f"{scheme}://", query)
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot open {shown(url)}: {reason(error)}") from error
