"""Turns an input into a stream of entries. Nothing here holds all paths in memory."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from typing import Any

from twincar_edge.datasets.files import images_folder
from twincar_edge.datasets.parquet import has_image_bytes, is_bytes
from twincar_edge.errors import InputError, require
from twincar_edge.images import FOREIGN_SUFFIXES, IMAGE_SUFFIXES
from twincar_edge.runtime.scoring.entries import Entry
from twincar_edge.runtime.scoring.file_systems import EXTRA, Storage, reason, shown
from twincar_edge.runtime.scoring.storage import absolute, join, storage_of
from twincar_edge.runtime.sources.images import has_magic, is_image_name

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".webm", ".wmv", ".flv")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PATH_COLUMNS = ("path", "filename", "file", "url", "image")
BYTES_COLUMNS = ("image", "bytes", "image_bytes", "jpg", "png")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # as WebDataset writes it: shard-{000000..000099}.tar
_LONGEST_RANGE = 1_000_000
_SAMPLED_ROWS = 20  # decide which folder the names of a list are relative to


def entries_of(source: str) -> Iterator[Entry]:
    """Yield the entries of an input, in the order in which they are found.

    Args:
        source: a path or URL of a folder, which is searched recursively, of a pattern, a CSV or Parquet file, a tar, a
            video or an image.

    Raises:
        InputError: the input does not exist, cannot be read, or contains nothing to score.
        MissingExtraError: pyarrow is not installed.
    """
    found = _entries(source)
    try:
        first = next(found)
    except StopIteration:
        raise InputError(f"nothing to score in {shown(source)}: no images, tars, Parquet files or videos") from None
    yield first
    yield from found


def _entries(source: str) -> Iterator[Entry]:
    storage = storage_of(source)
    found = _RANGE.search(shown(source))
    # Object stores deny access to names that do not exist, and this one is not a name.
    kind = None if found is not None and storage.remote else storage.kind(source)
    if kind == "folder":
        for path, size in _walk(storage, source):
            yield from _entries_of_file(storage, path, size)
    elif kind == "file":
        yield from _named_file(storage, source)
    elif found is not None:
        first, last = int(found[1]), int(found[2])
        if last - first >= _LONGEST_RANGE:
            raise InputError(f"{shown(source)} names more than {_LONGEST_RANGE:,} files: use several smaller ranges")
        for number in range(first, last + 1):
            yield from _entries(f"{source[: found.start()]}{number:0{len(found[1])}d}{source[found.end() :]}")
    elif has_magic(source.partition("?")[0] if storage.remote else source):
        yield from _matching(storage, source)
    else:
        if storage.remote:  # listing reports a missing bucket or missing permission
            list(storage.children(source))
        raise InputError(f"cannot read {shown(source)}: No such file or directory")


def _named_file(storage: Storage, path: str) -> Iterator[Entry]:
    """Yield the entries of a file that the user named. A list of paths is read only here, not inside folders."""
    name = _name(path)
    if name.endswith(".csv"):
        return _listed_in_csv(storage, path)
    if name.endswith(".parquet"):
        return _parquet(storage, path, lists=True)
    if _is_scored(name):
        return _entries_of_file(storage, path, None)
    raise InputError(f"unknown suffix of {shown(path)}: expected an image, video, tar, CSV or Parquet file")


def _entries_of_file(storage: Storage, path: str, size: int | None) -> Iterator[Entry]:
    name = _name(path)
    if is_image_name(name):
        yield Entry("image", path)
    elif name.endswith(".parquet"):
        yield from _parquet(storage, path, lists=False)
    else:
        kind = "tar" if name.endswith(TAR_SUFFIXES) else "video"
        yield Entry(kind, path, storage.size(path) if size is None else size)  # type: ignore[arg-type]


def _is_scored(name: str) -> bool:
    suffixes = (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES, *TAR_SUFFIXES, *VIDEO_SUFFIXES, ".parquet")
    return name.endswith(suffixes) and not name.startswith(".")


def _name(path: str) -> str:
    place = path.partition("?")[0] if "://" in path else path
    return place.rpartition("/")[2].lower()


def _walk(storage: Storage, folder: str) -> Iterator[tuple[str, int | None]]:
    """Yield the files to score in a folder and its subfolders."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        for child in storage.children(here):
            path = join(here, child.name)
            if child.folder:
                waiting.append(path)
            elif _is_scored(child.name.lower()):
                yield path, child.size


def _matching(storage: Storage, pattern: str) -> Iterator[Entry]:
    """Yield the entries of the files that match a pattern: `*` within a name, `**` across folders."""
    place, mark, query = pattern.partition("?") if "://" in pattern else (pattern, "", "")
    parts = place.split("/")
    fixed = next(number for number, part in enumerate(parts) if has_magic(part))
    folder = "/".join(parts[:fixed]) or ("/" if place.startswith("/") else ".")
    found = False
    if storage.kind(folder + mark + query) == "folder":
        for path, size in _walk(storage, folder + mark + query):
            inner = path.removesuffix(mark + query)[len(folder.rstrip("/")) + 1 :]
            if _match(inner.split("/"), parts[fixed:]):
                found = True
                name = inner if folder == "." else path
                yield from _entries_of_file(storage, name, size)
    if not found:
        raise InputError(f"no file to score matches {shown(pattern)}")


def matches(path: str, pattern: str) -> bool:
    """Return whether a pattern of files has a path, whether or not it exists."""
    return has_magic(pattern) and _match(absolute(path).split("/"), absolute(pattern).split("/"))


def _match(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not names or not parts:
        return not names and not parts
    if parts[0] == "**":
        return len(parts) == 1 or any(_match(names[start:], parts[1:]) for start in range(len(names)))
    return fnmatchcase(names[0], parts[0].replace("[^", "[!")) and _match(names[1:], parts[1:])


def _listed_in_csv(storage: Storage, path: str) -> Iterator[Entry]:
    """Yield the images, tars and videos that a CSV lists; names are relative to `images/` next to it, or to its folder.

    Raises:
        InputError: the file is not UTF-8, not CSV, or has no column that names files.
    """
    with storage.open(path) as file:
        reader = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", newline=""), strict=True, restval="")
        try:
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            column = _first_of(PATH_COLUMNS, columns)
            if column is None:
                raise _no_column(path, columns)
            names = (fields[column].strip() for fields in reader)
            yield from _listed(storage, path, names)
        except csv.Error as error:
            raise InputError(f"{shown(path)} line {reader.line_num} is not CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{shown(path)} is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except OSError as error:
            raise InputError(f"cannot read {shown(path)}: {reason(error)}") from error


def _listed(storage: Storage, path: str, names: Iterator[str]) -> Iterator[Entry]:
    first = list(islice(names, _SAMPLED_ROWS))
    query = "?" + path.partition("?")[2] if storage.remote and "?" in path else ""
    folder = path.removesuffix(query).rpartition("/")[0] or ("/" if path.startswith("/") else ".")
    if not storage.remote:
        folder = str(images_folder(Path(folder), [name for name in first if name]))
    for number, name in enumerate(chain(first, names), 1):
        if not name:
            raise InputError(f"{shown(path)} row {number} has no file name")
        full = name if "://" in name or name.startswith("/") else join(folder + query, name)
        full = full.removeprefix("./")
        lowered = _name(full)
        if lowered.endswith((*TAR_SUFFIXES, *VIDEO_SUFFIXES)):
            where = storage_of(full)
            yield from _entries_of_file(where, full, where.size(full) if where.kind(full) == "file" else 0)
        else:
            yield Entry("image", full)


def _parquet(storage: Storage, path: str, *, lists: bool) -> Iterator[Entry]:
    """Yield the row groups of a Parquet file with encoded images, or, with `lists`, the files that it lists."""
    pyarrow = require("pyarrow", EXTRA)
    parquet: Any = require("pyarrow.parquet", EXTRA)
    try:
        with storage.open(path) as opened, parquet.ParquetFile(opened) as file:
            schema = file.schema_arrow
            column = bytes_column(schema)
            if column is not None:
                row = 0
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    yield Entry("rows", path, rows, group, row, column)
                    row += rows
                return
            texts = [field.name for field in schema if _is_text(field.type)]
            column = _first_of(PATH_COLUMNS, texts) if lists else None
            if column is None:
                raise _no_column(path, [f"{field.name} ({field.type})" for field in schema], "image bytes")
            batches = file.iter_batches(batch_size=4096, columns=[column], use_threads=False)
            yield from _listed(storage, path, (name or "" for batch in batches for name in batch[0].to_pylist()))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"{shown(path)} cannot be read as Parquet: {reason(error)}") from error


def bytes_column(schema: Any) -> str | None:
    """Return the name of the column with encoded images, stored as bytes or as Hugging Face's {bytes, path}."""
    kinds = {field.name: field.type for field in schema}  # names may repeat
    known = (name for name in BYTES_COLUMNS if name in kinds)
    return next((name for name in known if is_bytes(kinds[name]) or has_image_bytes(kinds[name])), None)


def _is_text(kind: Any) -> bool:
    types: Any = require("pyarrow", EXTRA).types
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _first_of(wanted: tuple[str, ...], found: list[str]) -> str | None:
    return next((name for name in wanted if name in found), None)


def _no_column(path: str, found: list[str], other: str = "") -> InputError:
    wanted = f"a column {', '.join(PATH_COLUMNS)}" + (f", or {other} in {', '.join(BYTES_COLUMNS)}" if other else "")
    names = ", ".join(" ".join(column.split()) for column in found) or "nothing"
    return InputError(f"{shown(path)} needs {wanted}; found {names[:120]}")
