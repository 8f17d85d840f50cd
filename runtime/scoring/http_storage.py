"""Files behind http:// and https:// URLs, through fsspec."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

from twincar_edge.errors import InputError, require
from twincar_edge.images import MAX_IMAGE_BYTES, ImageError
from twincar_edge.runtime.scoring.file_systems import (
    COPIED_BYTES,
    EXTRA,
    Listed,
    Storage,
    buffered,
    reason,
    shown,
    temporary_copy,
)

CONNECT_S = 30  # timeouts
READ_S = 60
_ABSENT = (404, 410)  # status codes
_DENIED = (401, 403)


class HttpStorage(Storage):
    """A web server's files. It has no folders, and nothing can be written. A URL is passed on with its query."""

    remote = True

    def __init__(self) -> None:
        """Prepare a client, without a connection.

        Raises:
            MissingExtraError: fsspec or aiohttp is not installed.
        """
        aiohttp: Any = require("aiohttp", EXTRA)
        fsspec: Any = require("fsspec", EXTRA)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        # The environment has proxies, and ~/.netrc passwords.
        self._fs = fsspec.filesystem("http", client_kwargs={"timeout": timeout, "trust_env": True})
        self._errors = (OSError, ValueError, aiohttp.ClientError)

    def kind(self, path: str) -> Literal["file"] | None:
        """Return "file" if the server has the file."""
        try:
            self._info(path)
        except FileNotFoundError:
            return None
        return "file"

    def children(self, folder: str) -> Iterator[Listed]:
        """Raise an error: HTTP has no listing.

        Raises:
            InputError: always.
        """
        raise InputError(f"cannot read {shown(folder)}: No such file; a web server has no folders, so name its files")

    def size(self, path: str) -> int:
        """Return the size of a file; 0 if the server does not say it."""
        with self._reporting(path):
            return int(self._info(path)["size"] or 0)

    def open(self, path: str) -> io.BufferedReader:
        """Open a file; seeking is an error unless the server supports ranges."""
        with self._reporting(path):
            info = self._info(path)
            blocks = info["size"] and info.get("partial", True)
            file = self._fs.open(path, size=info["size"]) if blocks else self._stream(path)
            return buffered(path, file, self._errors)

    def read_image(self, path: str) -> bytes:
        """Return the bytes of an image file, with one request."""
        data = bytearray()
        try:
            with self._stream(path) as stream:
                while len(data) <= MAX_IMAGE_BYTES and (chunk := stream.read(COPIED_BYTES)):
                    data += chunk
        except FileNotFoundError as error:
            raise ImageError("missing", str(_missing(path))) from error
        except self._errors as error:
            if getattr(error, "status", None) in _DENIED:
                raise ImageError("unreadable", str(_failed(path, error))) from error
            raise _failed(path, error) from error
        return bytes(data)  # `decode_image` refuses a file that is too large

    def write(self, path: str, data: bytes) -> NoReturn:
        """Raise an error.

        Raises:
            InputError: always.
        """
        raise InputError(f"cannot write {shown(path)}: HTTP is read-only; name a folder or an object store")

    @contextmanager
    def local_file(self, path: str) -> Iterator[Path]:
        """Yield a temporary copy, and remove it at the end."""
        with self._reporting(path):
            stream = self._stream(path)
        with temporary_copy(path, buffered(path, stream, self._errors)) as copy:
            yield copy

    @contextmanager
    def _reporting(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise _missing(path) from error
        except self._errors as error:
            raise _failed(path, error) from error

    def _info(self, path: str) -> Any:
        """Return what fsspec knows of a file.

        Raises:
            FileNotFoundError: the server does not have it.
            InputError: the server does not answer, or refuses.
        """
        try:
            return self._fs.info(path)
        except FileNotFoundError as error:  # fsspec raises it for every failure
            cause = error.__cause__
            if isinstance(cause, Exception) and getattr(cause, "status", None) not in _ABSENT:
                raise _failed(path, cause) from error
            raise

    def _stream(self, path: str) -> Any:
        """Request a whole file. Without a size, fsspec would ask for it first."""
        return self._fs.open(path, block_size=0, size=1)


def _missing(path: str) -> InputError:
    return InputError(f"cannot read {shown(path)}: No such file or directory")


def _failed(path: str, error: Exception) -> InputError:
    status, message = getattr(error, "status", None), getattr(error, "message", "")
    return InputError(f"cannot read {shown(path)}: {f'{status} {message}'.strip() if status else reason(error)}")
