"""Frames from image files: one, all of a folder, or all that match a pattern."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import as_text, is_file, is_folder
from twincar_edge.images import FOREIGN_SUFFIXES, IMAGE_SUFFIXES, ImageError, decode_image, read_image_bytes
from twincar_edge.runtime.sources.ahead import ReadAhead
from twincar_edge.runtime.sources.base import Frame, Source, bytes_of, quote_source
from twincar_edge.runtime.sources.bounds import AHEAD_BYTES, MAX_FRAME_PIXELS
from twincar_edge.runtime.sources.recording import image_digest

DEPTH = 2  # images decoded ahead
RELEASE_S = 3.0  # for the image that is being decoded
_SUFFIXES = tuple(IMAGE_SUFFIXES | FOREIGN_SUFFIXES)
_MOST_FOLDERS = 10_000  # of a search through subfolders
_MAGIC = re.compile(r"[*?\[]")


class ImageFiles(Source):
    """Existing images, independent of each other; unusable ones are counted and skipped.

    A separate thread prefetches them.
    """

    stills = True

    def __init__(
        self, paths: list[Path], name: str, *, kind: str, stride: int = 1, max_pixels: int = MAX_FRAME_PIXELS
    ) -> None:
        """Take the files, in order; an image of more than `max_pixels` is unusable."""
        super().__init__(name)
        self.kind = kind
        self._paths = paths
        self._stride = stride
        self._max_pixels = max_pixels
        self._ahead = ReadAhead(
            self._decode(), DEPTH, size_of=bytes_of, max_size=AHEAD_BYTES, name=f"decode {self.name}"
        )

    def __iter__(self) -> Iterator[Frame]:
        """Yield every `stride`-th readable image."""
        try:
            yield from self._counted(self._ahead)
        finally:
            self.release()

    def release(self) -> None:
        """Stop prefetching; files are open only while they are read."""
        self._ahead.close(RELEASE_S)

    def _decode(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if index % self._stride == 0:
                try:
                    frame = image_frame(index, path, self._max_pixels)
                except ImageError as error:
                    self._skip(error.problem, str(error))
                else:
                    if frame.recording is not None:
                        self.recordings.add(frame.recording)
                    yield frame


def image_frame(index: int, path: Path, max_pixels: int = MAX_FRAME_PIXELS) -> Frame:
    """Return an image file of at most `max_pixels` as a frame.

    Raises:
        ImageError: it cannot be read.
    """
    data = read_image_bytes(path)
    return Frame(
        index, 0.0, decode_image(data, str(path), max_pixels=max_pixels), as_text(path.name), image_digest(data)
    )


def open_image(spec: str, stride: int, max_pixels: int = MAX_FRAME_PIXELS) -> Source:
    """Open a single image as a source."""
    return ImageFiles([Path(spec)], spec, kind="image", stride=stride, max_pixels=max_pixels)


def open_images_of(folder: Path, spec: str, stride: int, max_pixels: int = MAX_FRAME_PIXELS) -> Source:
    """Open the current images of a folder.

    Raises:
        InputError: the folder has no images.
    """
    paths = images_in(folder)
    if not paths:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return ImageFiles(paths, spec, kind="folder", stride=stride, max_pixels=max_pixels)


def open_glob(spec: str, stride: int, max_pixels: int = MAX_FRAME_PIXELS) -> Source:
    """Open all images that match a pattern.

    Raises:
        InputError: no image matches.
    """
    return ImageFiles(matching(spec), spec, kind="glob", stride=stride, max_pixels=max_pixels)


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

    A part of the path that exists literally is not a pattern: a folder may be called `cam [front]`.

    Raises:
        InputError: no image matches.
    """
    found = [path for path in _matches(Path(pattern).parts) if _is_image(path)]
    if not found:
        raise InputError(
            f"no image matches {quote_source(pattern)} (images end in {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return sorted(found, key=natural_order)


def _matches(parts: tuple[str, ...]) -> set[Path]:
    places = {Path()}
    for number, part in enumerate(parts):
        if part == "**":
            return {path for place in places for path in place.glob("/".join(parts[number:]))}
        places = {
            path
            for place in places
            for path in ([place / part] if _exists(place / part) else place.glob(part) if has_magic(part) else [])
        }
    return places


def _exists(path: Path) -> bool:
    return is_file(path) or is_folder(path)


def expand(paths: list[Path], *, recursive: bool | None = None) -> list[Path]:
    """Expand a list of files, folders and patterns to image files, without duplicates, in the order given.

    A file that is named explicitly is kept whatever its suffix, even if it is missing: reading it raises the error.

    Args:
        paths: files, folders and patterns.
        recursive: search each folder with its subfolders, without hidden ones and without symbolic links to folders;
            None if the caller has no such option, so that no message suggests it.

    Raises:
        InputError: a folder or pattern yields no images, or a folder cannot be listed or has too many subfolders.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if is_folder(path):
            images = _images_below(path) if recursive else images_in(path)
            if not images:
                raise _no_images(path, recursive=recursive)
        elif has_magic(str(path)) and not is_file(path):
            images = matching(str(path))
        else:
            images = [path]
        found.update(dict.fromkeys(images))
    return list(found)


def _images_below(folder: Path) -> list[Path]:
    """Return the image files of a folder and its subfolders, in natural order."""

    def cannot_list(error: OSError) -> None:
        raise InputError(f"cannot list the folder {error.filename}: {error.strerror}") from error

    found: list[Path] = []
    for count, part in enumerate(_folders(folder, cannot_list)):
        if count > _MOST_FOLDERS:
            raise InputError(f"{folder} has more than {_MOST_FOLDERS} subfolders: name a smaller folder")
        found += images_in(part)
    return sorted(found, key=natural_order)


def _no_images(folder: Path, *, recursive: bool | None) -> InputError:
    """Return the error for a folder without images; it says whether its subfolders have some."""
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    if recursive:
        return InputError(f"{folder} and its subfolders hold no images ({suffixes})")
    for part in islice(_folders(folder), 1, 1 + _MOST_FOLDERS) if recursive is False else ():
        if images_in(part):
            return InputError(
                f"{folder} holds no images, but its subfolders do: search them with ", Parameter("recursive", True)
            )
    return InputError(f"{folder} holds no images ({suffixes})")


def _folders(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield a folder and its subfolders, without hidden ones; symbolic links are not followed."""
    for root, names, _ in os.walk(folder, onerror=on_error):
        names[:] = sorted(name for name in names if not name.startswith(".") and not Path(root, name).is_symlink())
        yield Path(root)


def has_magic(text: str) -> bool:
    """Return whether the text contains glob characters."""
    return _MAGIC.search(text) is not None


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key under which `car_9` comes before `car_10`."""
    pieces = re.findall(r"\d+|\D+", str(path))
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def is_image_name(name: str) -> bool:
    """Return whether a file's name is an image's; names that begin with a dot are temporary files."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _is_image(path: Path) -> bool:
    return is_image_name(path.name) and is_file(path)
