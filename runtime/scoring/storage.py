"""Storage of inputs and outputs: local files, or any file system that pyarrow or fsspec opens by URL."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from twincar_edge.errors import InputError, require
from twincar_edge.files import make_folder
from twincar_edge.runtime.scoring.file_systems import (
    EXTRA,
    LocalStorage,
    OSErrorsOnly,
    RemoteStorage,
    Storage,
    reason,
    shown,
)
from twincar_edge.runtime.scoring.http_storage import HttpStorage

_LOCAL = LocalStorage()


def storage_of(path: str) -> Storage:
    """Return the file system of a path or URL.

    Raises:
        InputError: the scheme is unknown, or the URL contains a password, or a user of a website.
        MissingExtraError: pyarrow or the scheme's package is not installed.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        return _LOCAL
    place, mark, query = rest.partition("?")
    host = place.partition("/")[0]
    web = scheme in ("http", "https")
    user, named, _ = host.rpartition("@")
    # A user alone is part of an address, as in abfs://container@account or sftp://user@host. On the web it is a token.
    if ":" in user or (named and web):
        where = "~/.netrc" if web else "environment variables such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise InputError(f"the {scheme}:// URL contains a user or password: pass them in {where} instead")
    return _open_http() if web else _open(scheme, host, mark + query)


def join(folder: str, *names: str) -> str:
    """Join a folder and names below it; a URL's query stays at the end."""
    if "://" not in folder:
        return "/".join([folder.rstrip("/") or "/", *names]) if folder != "/" else "/" + "/".join(names)
    place, mark, query = folder.partition("?")
    return "/".join([place.rstrip("/"), *names]) + mark + query


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path equals a folder or is below it."""
    return f"{absolute(path).rstrip('/')}/".startswith(f"{absolute(folder).rstrip('/')}/")


def absolute(path: str) -> str:
    """Return a path from the root, or a URL without its query."""
    return shown(path) if "://" in path else str(Path(path).absolute())


def make_output(folder: str) -> None:
    """Create a local output folder; object stores need none.

    Raises:
        InputError: the folder cannot be created.
    """
    if "://" not in folder:
        make_folder(Path(folder))


@lru_cache(maxsize=1)
def _open_http() -> HttpStorage:
    return HttpStorage()


@lru_cache(maxsize=64)
def _open(scheme: str, host: str, query: str) -> RemoteStorage:
    pyarrow = require("pyarrow", EXTRA)
    fs: Any = require("pyarrow.fs", EXTRA)
    root = f"{scheme}://{host}"
    filesystem: Any = None
    try:
        opened, base = fs.FileSystem.from_uri(f"{root}/{query}")
        if not isinstance(opened, fs.PyFileSystem):
            return RemoteStorage(opened, root, base, query)
        filesystem = opened.handler.fs  # pyarrow takes hf:// from fsspec
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        if "nrecognized filesystem" not in str(error):
            raise InputError(f"cannot open {root}: {reason(error)}") from error
    except (OSError, ImportError) as error:
        raise InputError(f"cannot open {root}: {reason(error)}") from error
    if filesystem is None:
        fsspec: Any = require("fsspec.core", EXTRA)
        try:
            filesystem, base = fsspec.url_to_fs(f"{root}/")
        except Exception as error:  # packages raise errors of their own, as for missing credentials
            raise InputError(f"cannot open {root}: {reason(error)}") from error
    return RemoteStorage(fs.PyFileSystem(fs.FSSpecHandler(OSErrorsOnly(filesystem))), root, base, query)
