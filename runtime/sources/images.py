"""Frames out of single image files: one, a folder that fills up, or all that match a pattern."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from twincar_edge.errors import InputError
from twincar_edge.images import IMAGE_SUFFIXES, ImageError, read_image
from twincar_edge.runtime.sources.base import Frame, Source

POLL_S = 0.25
_MAGIC = re.compile(r"[*?\[]")


class Signature(NamedTuple):
    """What tells one content of a file from the next: bytes, and the time of change."""

    size: int
    changed_ns: int


class ImageFiles(Source):
    """Images that are there already, each standing alone; one that is unusable is counted and left out."""

    stills = True

    def __init__(self, paths: list[Path], name: str, *, kind: str, stride: int = 1) -> None:
        """Take the files, in order."""
        super().__init__(name)
        self.kind = kind
        self._paths = paths
        self._stride = stride

    def __iter__(self) -> Iterator[Frame]:
        """Give every `stride`-th image that can be read."""
        for index, path in enumerate(self._paths):
            if index % self._stride == 0:
                frame = self._frame(index, path)
                if frame is not None:
                    yield frame

    def release(self) -> None:
        """Nothing to give back: files are open only while they are read."""

    def _frame(self, index: int, path: Path) -> Frame | None:
        try:
            return Frame(index, 0.0, read_image(path), path.name)
        except ImageError as error:
            self._skip(error.problem, str(error))
            return None


class WatchedFolder(ImageFiles):
    """A folder into which images arrive: first what is there, then each new image once its size has stopped changing.

    Files whose name begins with a dot are somebody's temporary ones. A file that could not be read is tried again when
    it changes; one that was read is not read again.
    """

    live = True

    def __init__(self, folder: Path, name: str, *, stop: threading.Event, stride: int = 1) -> None:
        """Watch `folder` until `stop` is set."""
        super().__init__(images_in(folder), name, kind="folder", stride=stride)
        self._folder = folder
        self._stop = stop

    def __iter__(self) -> Iterator[Frame]:
        """Give the images as they come, until the stop event is set."""
        done: set[Path] = set()
        unusable: dict[Path, Signature | None] = {}
        sizes: dict[Path, int] = {}
        ready, index = self._paths, 0
        while not self._stop.is_set():
            for path in ready:
                signature = _signature(path)
                wanted = index % self._stride == 0
                frame = self._frame(index, path) if wanted else None
                index += 1
                if wanted and frame is None:
                    unusable[path] = signature
                else:
                    done.add(path)
                if frame is not None:
                    yield frame
                if self._stop.is_set():
                    return
            self._stop.wait(POLL_S)
            before, sizes, ready = sizes, {}, []
            for path in images_in(self._folder):
                signature = _signature(path)
                if path in done or signature is None or unusable.get(path) == signature:
                    continue
                sizes[path] = signature.size
                if signature.size and before.get(path) == signature.size:
                    ready.append(path)


def open_image(spec: str, stride: int) -> Source:
    """Open a single image as a source."""
    return ImageFiles([Path(spec)], spec, kind="image", stride=stride)


def open_folder(spec: str, stride: int, *, once: bool, stop: threading.Event) -> Source:
    """Open a folder of images; `once` ends after those that are there.

    Raises:
        InputError: with `once`, the folder holds no image.
    """
    folder = Path(spec)
    if not once:
        return WatchedFolder(folder, spec, stop=stop, stride=stride)
    paths = images_in(folder)
    if not paths:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return ImageFiles(paths, spec, kind="folder", stride=stride)


def open_glob(spec: str, stride: int) -> Source:
    """Open all images that match a pattern.

    Raises:
        InputError: no image does.
    """
    return ImageFiles(matching(spec), spec, kind="glob", stride=stride)


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder (not of folders in it), in natural order, without hidden ones.

    Raises:
        InputError: the folder cannot be listed.
    """
    try:
        return sorted((path for path in folder.iterdir() if _is_image(path)), key=natural_order)
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {error.strerror}") from error


def matching(pattern: str) -> list[Path]:
    """Return the image files that match a glob pattern (`**` for any depth), in natural order.

    Raises:
        InputError: none does.
    """
    parts = Path(pattern).parts
    first = next(place for place, part in enumerate(parts) if has_magic(part))
    found = [path for path in Path(*parts[:first]).glob("/".join(parts[first:])) if _is_image(path)]
    if not found:
        raise InputError(f"no image matches {pattern!r} (images end in {', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(found, key=natural_order)


def expand(paths: list[Path]) -> list[Path]:
    """Return the image files that a list of files, folders and patterns stands for, each once, in the order given.

    A file that is named outright is kept whatever its suffix, and even if it is missing: reading it will say why.

    Raises:
        InputError: a folder or pattern holds no image.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            images = images_in(path)
            if not images:
                raise InputError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        elif has_magic(str(path)) and not path.exists():
            images = matching(str(path))
        else:
            images = [path]
        found.update(dict.fromkeys(images))
    return list(found)


def has_magic(text: str) -> bool:
    """Return whether a glob pattern's characters are in the text."""
    return _MAGIC.search(text) is not None


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key under which `car_9` comes before `car_10`."""
    pieces = re.findall(r"\d+|\D+", str(path))
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _signature(path: Path) -> Signature | None:
    """Return what changes when the file does, or None where it has gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Signature(status.st_size, status.st_mtime_ns)
