"""Where inputs and outputs of scoring are: local files, or any file system that pyarrow or fsspec opens by URL."""

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
    """A file or folder in a folder; the size in bytes is None where it was not asked for."""

    name: str
    folder: bool
    size: int | None = None


class Storage(ABC):
    """A file system; paths are as the user writes them, URLs whole.

    Attributes:
        remote: reading a file takes a round trip over a network, so that several should be read at once.
    """

    remote: bool

    @abstractmethod
    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what is at a path; None for nothing."""

    @abstractmethod
    def children(self, folder: str) -> Iterator[Listed]:
        """Yield what is in a folder, in any order, without hidden names and symbolic links to folders."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open a file to read; seekable."""

    @abstractmethod
    def read_image(self, path: str) -> bytes:
        """Return the bytes of an image file.

        Raises:
            ImageError: this one file is missing, not readable, or too large.
            InputError: the storage itself fails.
        """

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all; folders are made as needed."""

    @abstractmethod
    def local_file(self, path: str) -> Any:
        """Return a context manager that gives a local path of the file."""


class LocalStorage(Storage):
    """This machine's files."""

    remote = False

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what is at a path."""
        return "file" if is_file(Path(path)) else "folder" if is_folder(Path(path)) else None

    def children(self, folder: str) -> Iterator[Listed]:
        """Yield what is in a folder; the directory is streamed, so that its size does not matter."""
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
        """Give the path itself."""
        yield Path(path)


class RemoteStorage(Storage):
    """A file system of pyarrow, or one of fsspec behind pyarrow's interface, of one bucket or host.

    A file appears in an object store only when it was written to its end, so that `write` needs no temporary name.
    """

    remote = True

    def __init__(self, filesystem: Any, root: str, query: str) -> None:
        """Take the file system, and what stands before and behind its own paths in a URL."""
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
        except (OSError, ValueError) as error:  # of pyarrow, which raises OSError for all that a service answers
            raise InputError(f"cannot {doing} {shown(path)}: {reason(error)}") from error

    def _info(self, path: str) -> Any:
        with self._reporting("read", path):
            return self._fs.get_file_info(self._inner(path))

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what is at a path."""
        import pyarrow.fs

        kind = self._info(path).type
        if kind == pyarrow.fs.FileType.File:
            return "file"
        return "folder" if kind == pyarrow.fs.FileType.Directory else None

    def children(self, folder: str) -> Iterator[Listed]:
        """Yield what is in a folder; one folder's names are held in memory at a time."""
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
        """Open a file; pyarrow's files read, seek and close as Python's do."""
        with self._reporting("read", path):
            return cast(BinaryIO, self._fs.open_input_file(self._inner(path)))

    def read_image(self, path: str) -> bytes:
        """Return the bytes of an image file.

        Raises:
            ImageError: the file is missing or too large, or this program may not read it.
            InputError: anything else, such as a network that is down: it would concern all files.
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
        return bytes(data)  # `decode_image` says that it is too large

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
        """Give a temporary copy, which is removed at the end."""
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
        InputError: nothing opens URLs of this scheme, or the URL holds a password.
        MissingExtraError: pyarrow, or the package of this scheme, is not installed.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        return _LOCAL
    host = rest.partition("/")[0]
    if "@" in host:
        raise InputError(
            f"the {scheme}:// URL holds a user or password: give credentials by the environment, "
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    inner, mark, query = rest.partition("?")
    return _open(scheme, inner.partition("/")[0], mark + query)


def join(folder: str, *names: str) -> str:
    """Return the path of something in a folder; a URL's query stays at its end."""
    if "://" not in folder:
        return "/".join([folder.rstrip("/") or "/", *names]) if folder != "/" else "/" + "/".join(names)
    place, mark, query = folder.partition("?")
    return "/".join([place.rstrip("/"), *names]) + mark + query


def shown(path: str) -> str:
    """Return a path for people; a URL without its query, which says how to reach the storage."""
    return path.partition("?")[0] if "://" in path else path


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path is a folder or somewhere below it."""
    inner, outer = (shown(place) if "://" in place else str(Path(place).absolute()) for place in (path, folder))
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")


def make_output(folder: str) -> None:
    """Make an output folder where the file system has folders.

    Raises:
        InputError: it cannot be made.
    """
    if "://" not in folder:
        make_folder(Path(folder))


def reason(error: Exception) -> str:
    """Return the first line of an error of pyarrow, not too long, without what the service calls the request."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r" \(Request ID: [^)]*\)", "", line)[:_LONGEST_REASON]


@lru_cache(maxsize=64)
def _open(scheme: str, host: str, query: str) -> RemoteStorage:
    pyarrow = require("pyarrow", EXTRA)
    fs: Any = require("pyarrow.fs", EXTRA)
    url = f"{scheme}://{host}{query}"
    try:
        filesystem, _ = fs.FileSystem.from_uri(url)
        # pyarrow's paths of object stores begin with the bucket
        root = f"{scheme}://" if scheme in ("s3", "gs", "gcs", "abfs", "abfss") else f"{scheme}://{host}"
        return RemoteStorage(filesystem, root, query)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        if "nrecognized filesystem" not in str(error):
            raise InputError(f"cannot open {url}: {reason(error)}") from error
    except OSError as error:
        raise InputError(f"cannot open {url}: {reason(error)}") from error
    fsspec: Any = require("fsspec", EXTRA)
    try:
        return RemoteStorage(fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme))), f"{scheme}://", query)
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot open {url}: {reason(error)}") from error
