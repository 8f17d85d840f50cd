"""Stratified, seeded splits into training and validation, stored as two CSV files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twincar_edge.datasets.dataset import Dataset
from twincar_edge.datasets.table import label_index, read_table, write_rows
from twincar_edge.errors import InputError
from twincar_edge.files import replacing

TRAIN_CSV, VALIDATION_CSV = "train.csv", "val.csv"


@dataclass(frozen=True)
class Split:
    """A data set split in two: training images, and validation images that the model never sees."""

    train: Dataset
    validation: Dataset


def stratified_split(dataset: Dataset, validation_share: float = 0.1, seed: int = 0) -> Split:
    """Take `validation_share` of each class for validation.

    A class of two images or more gives at least one and keeps at least one; a class of one image stays in training.
    The split depends on the names, the class names and the seed alone: not on the order of the samples, nor on the
    machine. Each class is shuffled independently, so adding images to one class does not affect another.

    Raises:
        InputError: the share is not between 0 and 1, the seed is negative, or no class has two images.
    """
    if not 0 < validation_share < 1:
        raise InputError(f"the share for validation must lie between 0 and 1, found {validation_share}")
    if seed < 0:
        raise InputError(f"the seed must be 0 or more, found {seed}")
    chosen: set[str] = set()
    for names, _ in _shuffled_classes(dataset, seed):
        chosen.update(names[: min(max(round(len(names) * validation_share), 1), len(names) - 1)])
    return _hold_out(dataset, chosen)


def stratified_folds(dataset: Dataset, folds: int, seed: int = 0) -> tuple[Split, ...]:
    """Distribute the images of each class over `folds` parts; each split holds out one part and trains on the others.

    So each image is held out once, except that a class of one image stays in training. The parts depend
    on the same inputs as `stratified_split`, and their sizes in each class differ by one at most.

    Raises:
        InputError: there are fewer than two folds, the seed is negative, or a fold would hold nothing out.
    """
    if folds < 2:
        raise InputError(f"cross-validation needs 2 folds or more, found {folds}")
    if seed < 0:
        raise InputError(f"the seed must be 0 or more, found {seed}")
    parts: list[set[str]] = [set() for _ in range(folds)]
    classes = list(_shuffled_classes(dataset, seed))
    for names, first in classes:
        for place, name in enumerate(
            names, start=first
        ):  # rotates the start, so that no fold gets the extra image of every class
            parts[place % folds].add(name)
    empty = parts.count(set())
    if classes and empty:
        most = max(len(names) for names, _ in classes)
        raise InputError(
            f"the classes of {dataset.name} have at most {most} images each, and {empty} of the {folds} folds would "
            f"hold nothing out: use at most {most} folds, or add images"
        )
    return tuple(_hold_out(dataset, part) for part in parts)


def _shuffled_classes(dataset: Dataset, seed: int) -> Iterator[tuple[list[str], int]]:
    """Give the names of each class of two images or more, in random order, and a random number, class by class."""
    by_label: dict[int, list[str]] = {}
    for sample in dataset.samples:
        by_label.setdefault(sample.label, []).append(sample.name)
    for label, names in by_label.items():
        if len(names) > 1:
            digest = hashlib.sha256(dataset.classes[label].encode("utf-8")).digest()
            rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
            ordered = sorted(names)
            yield [ordered[place] for place in rng.permutation(len(ordered))], int(rng.integers(2**31))


def _hold_out(dataset: Dataset, chosen: set[str]) -> Split:
    if not chosen:
        raise InputError(f"the data set {dataset.name} has no class with two images: nothing can be held out")
    return Split(
        dataset.select(sample.name for sample in dataset.samples if sample.name not in chosen),
        dataset.select(sample.name for sample in dataset.samples if sample.name in chosen),
    )


def write_split(split: Split, folder: Path) -> None:
    """Write train.csv and val.csv (`filename,label`, the label as an index) into `folder`: both, or neither.

    Raises:
        InputError: they cannot be written.
    """
    with replacing(folder / TRAIN_CSV) as train, replacing(folder / VALIDATION_CSV) as validation:
        train.write_text(_csv(split.train), "utf-8")
        validation.write_text(_csv(split.validation), "utf-8")


def read_split(dataset: Dataset, folder: Path) -> Split:
    """Read the split that `write_split` wrote, by sample name. Images in neither file are dropped.

    Raises:
        InputError: a file is missing or damaged, names images that the data set does not have, gives one another label,
            or both files name the same image.
    """
    train, validation = (_part(dataset, folder / name) for name in (TRAIN_CSV, VALIDATION_CSV))
    both = {sample.name for sample in train.samples} & {sample.name for sample in validation.samples}
    if both:
        raise InputError(f"{folder} has {len(both)} images in train.csv and in val.csv, the first {min(both)!r}")
    return Split(train, validation)


def _csv(dataset: Dataset) -> str:
    return write_rows((sample.name, sample.label) for sample in dataset.samples)


def _part(dataset: Dataset, path: Path) -> Dataset:
    rows = read_table(path)
    try:
        part = dataset.select(row.name for row in rows)
    except InputError as error:
        raise InputError(f"{path} does not fit: {error}") from error
    for row, sample in zip(rows, part.samples, strict=True):
        written = str(sample.label)  # as `write_split` does; a class may be called 1
        if row.label != written and label_index(row.label, dataset.classes, f"{path} line {row.line}") != sample.label:
            raise InputError(
                f"{path} line {row.line} labels {row.name!r} {row.label}, but the data set labels it {sample.label}: "
                "the class mapping has changed since the split was written"
            )
    return part
