"""Atomic file writes, and the digest that identifies a file."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from twincar_edge.errors import InputError, Parameter

_TEMPORARY_HEX = 16
_TEMPORARY = re.compile(rf"\.[0-9a-f]{{{_TEMPORARY_HEX}}}(\..*)?")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, with its suffix; it replaces `path` if the block succeeds.

    For writers that need a path (video, ONNX, torch). Missing folders are created. After an error, the temporary file
    is removed, and an existing `path` is unchanged.

    Raises:
        InputError: the folder cannot be made, the file cannot be written (no space, no permission), or `path` is a
            folder, a device or impossible.
    """
    check_name(path)
    temporary = None
    try:
        if os.path.realpath(path.parent) == "/dev":  # /dev/stdout may lead to a file, and would be replaced
            raise _not_a_file(path)
        check_is_file(path)
        make_folder(path.parent)
        temporary = path.with_name(f".{secrets.token_hex(_TEMPORARY_HEX // 2)}{path.suffix}")
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_is_file(path: Path) -> None:
    """Check that a path to write, if it exists, is a file.

    Raises:
        InputError: it is a folder, a device or a pipe.
        OSError: it cannot be examined.
    """
    if path.exists() and not path.is_file():
        raise _not_a_file(path)


def _not_a_file(path: Path) -> InputError:
    return InputError(f"cannot write {path}: it is a folder or a device, not a file")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, if missing.

    Raises:
        InputError: it cannot be created.
    """
    check_name(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"cannot write into {folder}: it exists, but is not a folder") from error
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}") from error


def check_not_read(outputs: Iterable[Path], inputs: Iterable[Path | None], name: str = "output") -> None:
    """Check that no result would replace a file that it is made from.

    Args:
        outputs: the files to write.
        inputs: the files to read, also by other paths, such as links; None and files that do not exist are left out.
        name: the parameter that names the outputs.

    Raises:
        InputError: an output is one of the inputs.
    """
    written = {_known_identity(path) for path in outputs} - {None}
    for path in inputs if written else ():
        found = None if path is None else _known_identity(path)
        if found in written:
            raise InputError(f"{path} is an input, and would be overwritten: choose another ", Parameter(name))


def result_paths(inputs: Sequence[Path], folder: Path, suffix: str) -> list[Path]:
    """Return a path in `folder` for the result of each input, with its name and `suffix`; equal names get numbers."""
    stems = Counter(path.stem for path in inputs)
    names = {stem for stem, paths in stems.items() if paths == 1}
    places = []
    for number, path in enumerate(inputs, 1):
        name = path.stem
        if stems[name] > 1:
            name = next(free for n in count(number) if (free := f"{path.stem}-{n}") not in names)
            names.add(name)
        places.append(folder / f"{name}{suffix}")
    return places


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, the same by any of its paths; None if it does not exist.

    Raises:
        OSError: it cannot be examined.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _known_identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError, ValueError):  # it cannot be examined, or is not a path
        return identity(path)
    return None


def check_new(*paths: Path) -> None:
    """Check that no file exists yet, and that a folder is empty.

    Raises:
        InputError: one exists, or cannot be examined.
    """
    for path in paths:
        try:
            if path.exists() and not (path.is_dir() and not any(path.iterdir())):
                raise InputError(
                    f"{path} exists: choose another name, or replace it with ", Parameter("overwrite", True)
                )
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error


def remains(folder: Path) -> list[Path]:
    """Return the temporary files left in a folder by a `replacing` whose process was killed."""
    return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]


def path_aside(path: Path, why: str) -> Path:
    """Return the path to which a file is renamed to keep it: `<name>.<why>-<time>`, for example `why="corrupt"`."""
    return path.with_name(f"{path.name}.{why}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Missing folders are created.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically. Missing folders are created. Bytes of file names that are not UTF-8 are escaped.

    Raises:
        InputError: it cannot be written.
    """
    write_bytes(path, as_text(text).encode("utf-8"))


def write_private_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically, readable only by its owner.

    A file that root writes gets the folder's owner, since the folder may belong to a service of another user.

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
    """Return whether a path is a file; False if unknown, as in a folder without search permission."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False if unknown."""
    try:
        return path.is_dir()
    except OSError:
        return False


def as_text(name: str) -> str:
    """Return a file name as text for reports, JSON and databases; bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def check_name(path: Path) -> None:
    """Check that a file can have this name. Python opens no others, and raises a ValueError that does not name them.

    Raises:
        InputError: it has a NUL character, or a lone surrogate that stands for no byte.
    """
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise InputError(f"invalid file name {str(path)!r}")


def check_utf8(path: Path | str, problem: str) -> None:
    """Check that a path is UTF-8, for libraries and files that take no other paths.

    Args:
        path: the path.
        problem: the start of the message, such as "cannot read the video car.mp4".

    Raises:
        InputError: its name, or that of its folder, is not UTF-8.
    """
    if as_text(str(path)) != str(path):
        raise InputError(f"{problem}: its name is not UTF-8: rename it")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits; reports and events identify a model by it.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
