"""The two layouts of plain image files: a CSV with a folder of images, and one folder per class."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from twincar_edge.datasets.dataset import Dataset, ImageFile, Sample
from twincar_edge.datasets.table import checked_name, label_indices, read_table
from twincar_edge.errors import InputError
from twincar_edge.images import FOREIGN_SUFFIXES, IMAGE_SUFFIXES
from twincar_edge.labels import ClassMapping

LABELS_CSV = "labels.csv"
CLASS_MAPPING = "class_mapping.json"
_PARTS = frozenset({"train", "test", "val", "valid", "validation"})
_ROWS_THAT_DECIDE = 20  # more than one, in case the first image is missing


def is_csv(path: Path) -> bool:
    """Return whether `path` is a CSV file, or a folder that holds labels.csv."""
    return (path.suffix.lower() == ".csv" and path.is_file()) or (path / LABELS_CSV).is_file()


def read_csv(path: Path, images: Path | None = None, class_mapping: Path | None = None) -> Dataset:
    """Open a CSV of `filename,label` with its images.

    The images are in `images`, else in `images/` next to the CSV, else next to the CSV: some tools write
    `images/00001.jpg`, others `00001.jpg`. The class names come from `class_mapping`, else from class_mapping.json next
    to the CSV. This does not check that images exist: the integrity pass reports missing ones.

    Raises:
        InputError: the CSV or the mapping is unusable, or a label is outside the mapping.
    """
    table = path / LABELS_CSV if path.is_dir() else path
    folder = table.parent
    rows = read_table(table)
    mapping = class_mapping or folder / CLASS_MAPPING
    if class_mapping is None and not mapping.is_file():
        raise InputError(f"{table} needs its class names: put {CLASS_MAPPING} next to it, or name a class mapping")
    classes = ClassMapping.from_json(mapping)
    images = images or images_folder(folder, [row.name for row in rows])
    if not images.is_dir():
        raise InputError(f"the folder of images {images} does not exist")
    found: dict[str, str] = {}
    for row in rows:
        found.setdefault(row.label, f"{table} line {row.line}")
    by_label = label_indices(found, classes)
    samples = [Sample(row.name, by_label[row.label], ImageFile(stored_image(images, row.name))) for row in rows]
    name = table.parent.resolve().name if table.name == LABELS_CSV else table.stem
    return Dataset(name, classes, tuple(samples))


def stored_image(images: Path, name: str) -> Path:
    """Return the path of an image of a CSV, also if the name there has spaces around it or another Unicode normal form.

    macOS writes decomposed accented letters into archives, while most CSV files have composed ones.
    """
    path, stripped = images / name, name.strip()
    if (name == stripped and name.isascii()) or path.exists():
        return path
    spelled = (images / unicodedata.normalize(form, stripped) for form in ("NFC", "NFD"))
    return next((other for other in spelled if other.exists()), path)


def images_folder(folder: Path, names: Sequence[str]) -> Path:
    """Return the folder that the file names of a CSV in `folder` are relative to, by looking for the first files."""
    beside = folder / "images"
    if not beside.is_dir() or any((folder / name).is_file() for name in names[:_ROWS_THAT_DECIDE]):
        return folder
    return beside


def is_folders(path: Path) -> bool:
    """Return whether `path` is a folder whose immediate subfolders hold images, or whose parts of a split do."""
    if not path.is_dir():
        return False
    return any(_is_picture(file) for part in _parts(path) for folder in _folders(part) for file in _visible(folder))


def read_folders(path: Path, class_mapping: Path | None = None) -> Dataset:
    """Open a folder in which each subfolder is a class and its name the class name.

    If the subfolders are the parts of a split (train, test, …), all parts are opened; pass the path of a part to open
    only that one. Every visible file counts as an image, so that the integrity pass reports files with a wrong suffix.
    Underscores become spaces if no folder name has a space.

    Raises:
        InputError: there are no class folders, only parts of a split; a class folder is empty, a file has an unusable
            name, or the given mapping lacks a class.
    """
    parts = _parts(path)
    folders = sorted((folder for part in parts for folder in _folders(part)), key=lambda folder: folder.name)
    names = sorted({folder.name for folder in folders})
    _check_classes(path, names)
    classes = ClassMapping.from_folder_names(names)
    labels = list(range(len(names)))
    if class_mapping is not None:
        found, classes = classes, ClassMapping.from_json(class_mapping)
        known = {name: classes.find(name) for name in found}
        unknown = [name for name, label in known.items() if label is None]
        if unknown:
            raise InputError(f"{class_mapping} lacks {len(unknown)} class folders, the first {unknown[0]!r}")
        labels = [label for label in known.values() if label is not None]
    samples: list[Sample] = []
    for folder in folders:
        files = [file for file in _visible(folder) if not file.is_dir()]
        if not files:
            raise InputError(f"the class folder {folder} holds no files: fill or remove it, or open a folder inside it")
        for file in files:
            name = checked_name(file.relative_to(path).as_posix(), str(folder))
            samples.append(Sample(name, labels[names.index(folder.name)], ImageFile(file)))
    return Dataset(path.resolve().name, classes, tuple(samples))


def _check_classes(path: Path, names: Sequence[str]) -> None:
    """Check that the folder names can be class names.

    Raises:
        InputError: there are no folders, or they are the parts of a split.
    """
    if names and all(name.lower().removeprefix("cars_") in _PARTS for name in names):
        seen = ", ".join(map(repr, names))
        raise InputError(
            f"{path} holds {seen}: these are parts of a split, not classes; each needs its own class folders, "
            "or labels next to it (Stanford Cars: devkit/)"
        )
    if not names:
        raise InputError(f"{path} holds no class folders: expected one for each class, with its images")


def _parts(path: Path) -> list[Path]:
    """Return the folders whose subfolders are classes: the parts of a split if `path` has nothing else, else `path`.

    A single subfolder of the same name is entered, as in Kaggle's car_data/car_data/train.
    """
    folders = _folders(path)
    if [folder.name for folder in folders] == [path.name]:
        return _parts(folders[0])
    is_split = folders and all(folder.name.lower() in _PARTS for folder in folders)
    if is_split and not any(_is_picture(file) for folder in folders for file in _visible(folder)):
        return folders
    return [path]


def _folders(path: Path) -> list[Path]:
    return [folder for folder in _visible(path) if folder.is_dir()]


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES | FOREIGN_SUFFIXES and not file.is_dir()


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
