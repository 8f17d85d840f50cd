"""Files that are written whole or not at all, and what identifies a file."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twincar_edge.errors import InputError

_TEMPORARY_HEX = 16
_TEMPORARY = re.compile(rf"\.[0-9a-f]{{{_TEMPORARY_HEX}}}(\..*)?")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, with its suffix; it replaces `path` when the block ends without an error.

    For writers that want a path of their own (video, ONNX, torch). Folders are made as needed; after an error no file
    is left, and one that was there before is as it was.

    Raises:
        InputError: the folder cannot be made, the file cannot be written (no space, no permission), or `path` is a
            folder or a device.
    """
    temporary = None
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"cannot write {path}: it is a folder or a device, not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(_TEMPORARY_HEX // 2)}{path.suffix}")
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it; one that is there stays as it is.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}") from error


def remains(folder: Path) -> list[Path]:
    """Return the temporary files that `replacing` left in a folder when its process was killed."""
    return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Folders are made as needed.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all. Folders are made as needed.

    Raises:
        InputError: it cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_private_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that only its owner may read, whole or not at all.

    What root writes belongs to the folder's owner: the folder may be that of a service that runs as another user.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_bytes(text.encode("utf-8"))
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)


def is_file(path: Path) -> bool:
    """Return whether a path is a file's; not so where that cannot be told, as in a folder that may not be searched."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder's; not so where that cannot be told."""
    try:
        return path.is_dir()
    except OSError:
        return False


def as_text(name: str) -> str:
    """Return a file's name as text for JSON and databases, with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits: the digest by which reports and events name a model.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
