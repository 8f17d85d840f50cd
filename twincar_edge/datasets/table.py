"""The CSV of labeled images: columns `filename` and `label`, one row per image."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from twincar_edge.csv_lines import FORMULA, csv_line
from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping

COLUMNS = ("filename", "label")


@dataclass(frozen=True)
class Row:
    """One row: its line in the file (for errors), the image's name, and the label as written."""

    line: int
    name: str
    label: str


def read_table(path: Path) -> list[Row]:
    """Read a labels CSV; other columns are ignored.

    Raises:
        InputError: as `read_records`.
    """
    return [Row(line, name, fields["label"]) for line, name, fields in read_records(path, COLUMNS, COLUMNS)]


def read_records(
    path: Path, columns: Sequence[str], filled: Sequence[str] = ("filename",)
) -> list[tuple[int, str, dict[str, str]]]:
    """Read a CSV of images: the line (for errors), the image's name, and all fields, for each row.

    Args:
        path: the CSV.
        columns: those that it needs, `filename` among them. Fields are stripped; one that a short row lacks is empty.
        filled: the columns that may not be empty in any row.

    Raises:
        InputError: the file is missing, not UTF-8, not CSV, lacks a column, or a row is short, repeated, or names a
            file outside the image folder.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="")
    rows: dict[str, tuple[int, str, dict[str, str]]] = {}
    try:
        found = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = found
        if not set(columns) <= set(found):
            shown = ", ".join(" ".join(column.split()) for column in found) or "nothing"
            raise InputError(f"{path} needs the columns {','.join(columns)} in its first line, found {shown[:80]}")
        for fields in reader:
            line = reader.line_num
            if not all(fields[column] for column in filled):
                raise InputError(f"{path} line {line} needs a {' and a '.join(filled)}")
            name = checked_name(fields["filename"], f"{path} line {line}")
            if name in rows:
                raise InputError(f"{path} line {line} repeats {name!r} of line {rows[name][0]}: keep one of them")
            rows[name] = (line, name, {column: fields[column].strip() for column in found})
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not CSV: {error}") from error
    return list(rows.values())


def write_rows(rows: Iterable[tuple[str, int]]) -> str:
    """Return the CSV text of (name, label index) rows, for `read_table`.

    A name that a spreadsheet would take for a formula is written as a path in the same folder: `./-1.jpg`.
    """
    cells = [(f"./{name}" if name.startswith(FORMULA) else name, label) for name, label in rows]
    return "".join(map(csv_line, [COLUMNS, *cells]))


def checked_name(filename: str, where: str) -> str:
    """Return a relative file name in its plain form (`./a//b.jpg` becomes `a/b.jpg`).

    Raises:
        InputError: it is absolute, leaves its folder, or contains control characters or lone surrogates.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in filename):
        raise InputError(f"{where} has the file name {filename[:80]!r} with control characters or not UTF-8: rename it")
    path = PurePosixPath(filename)
    if path.is_absolute() or PureWindowsPath(filename).is_absolute() or ".." in path.parts or path == PurePosixPath():
        raise InputError(f"{where} names {filename[:80]!r}: file names must be relative and stay in the images' folder")
    return path.as_posix()


def label_indices(labels: Mapping[str, str], classes: ClassMapping) -> dict[str, int]:
    """Return the output index of each label of a file.

    If all labels are valid indices and not all are class names, they count as indices, even if some are names too, as
    with classes named 1, 2 and 10.

    Args:
        labels: each label as written, with its first location, for errors.
        classes: the classes.

    Raises:
        InputError: as `label_index`.
    """
    indices = {label: index for label in labels if (index := _index(label, classes)) is not None}
    if len(indices) == len(labels) and any(classes.find(label) is None for label in labels):
        return indices
    return {label: label_index(label, classes, where) for label, where in labels.items()}


def label_index(label: str, classes: ClassMapping, where: str) -> int:
    """Return the output index of a label that is written as an index or as a class name.

    Raises:
        InputError: it is neither, or it is the index of one class and the name of another.
    """
    named = classes.find(label)
    index = _index(label, classes)
    if named is not None and index is not None and named != index:
        raise InputError(f"{where}: label {label!r} is the index of one class and the name of another")
    found = index if named is None else named
    if found is None:
        raise InputError(
            f"{where}: label {label[:60]!r} is neither an index from 0 to {len(classes) - 1} nor a class name"
        )
    return found


def _index(label: str, classes: ClassMapping) -> int | None:
    index = int(label) if label.isascii() and label.isdigit() and len(label) < 10 else None
    return None if index is None or index >= len(classes) else index
