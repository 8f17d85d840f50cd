"""The Stanford Cars layout as downloaded: cars_train/, cars_test/ and a devkit of MATLAB annotations.

Source: Krause, Stark, Deng, Fei-Fei, "3D Object Representations for Fine-Grained Categorization", 2013, and the
devkit's README: one struct an image with bbox_x1, bbox_y1, bbox_x2, bbox_y2 (1-based, both ends inside), class
(1-based) and fname.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from twincar_edge.datasets.dataset import Dataset, ImageFile, Sample
from twincar_edge.datasets.table import checked_name
from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping, read_mat

_BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
_TRAIN, _TEST = "cars_train", "cars_test"
_TRAIN_ANNOTATIONS = "cars_train_annos.mat"
_TEST_ANNOTATIONS = "cars_test_annos_withlabels.mat"


def is_stanford(path: Path) -> bool:
    """Say whether `path` is the download's folder, or its cars_train or cars_test."""
    return _root(path) is not None


def read_stanford(path: Path, class_mapping: Path | None = None, crop: bool = True) -> Dataset:
    """Open Stanford Cars: all labelled images of the download, or those of its cars_train or cars_test alone.

    The labels of cars_test are a separate file (cars_test_annos_withlabels.mat, in devkit/ or beside it); without it,
    cars_test is left out.

    Raises:
        InputError: an annotation file is missing or is not Stanford's.
        MissingExtraError: scipy, which reads MATLAB files, is not installed.
    """
    root = _root(path)
    if root is None:
        raise InputError(f"{path} has no devkit/{_TRAIN_ANNOTATIONS}: it is not the Stanford Cars download")
    devkit = root / "devkit"
    if class_mapping is None:
        classes = ClassMapping.from_cars_meta(devkit / "cars_meta.mat")
    else:
        classes = ClassMapping.from_json(class_mapping)
    test = next((path for path in (devkit / _TEST_ANNOTATIONS, root / _TEST_ANNOTATIONS) if path.is_file()), None)
    samples: list[Sample] = []
    if path.name != _TEST or root == path:
        samples += _samples(devkit / _TRAIN_ANNOTATIONS, root / _TRAIN, crop)
    if path.name != _TRAIN or root == path:
        if test is not None:
            samples += _samples(test, root / _TEST, crop)
        elif root != path:
            raise InputError(f"{path} has no labels: put {_TEST_ANNOTATIONS} in {devkit}")
    return Dataset(path.resolve().name, classes, tuple(samples))


def _root(path: Path) -> Path | None:
    candidates = [path, path.parent] if path.name in (_TRAIN, _TEST) else [path]
    return next((folder for folder in candidates if (folder / "devkit" / _TRAIN_ANNOTATIONS).is_file()), None)


def _samples(annotations: Path, folder: Path, crop: bool) -> Iterator[Sample]:
    records: Any = read_mat(annotations).get("annotations")
    fields = (*_BOX, "class", "fname")
    if records is None or not set(fields) <= set(getattr(records.dtype, "names", None) or ()):
        raise InputError(f"{annotations} has no structs annotations with {', '.join(fields)}: it is not Stanford's")
    for row, record in enumerate(np.atleast_1d(records), start=1):
        where = f"{annotations} row {row}"
        try:
            left, top, right, bottom = (int(record[field]) for field in _BOX)
            label = int(record["class"]) - 1
        except (TypeError, ValueError) as error:
            raise InputError(f"{where} has a box or class that is no number") from error
        name = checked_name(str(record["fname"]), where)
        # From 1-based with both ends inside to 0-based with the end outside: only the start moves.
        box_xyxy = (left - 1, top - 1, right, bottom) if crop else None
        yield Sample(f"{folder.name}/{name}", label, ImageFile(folder / name), box_xyxy)
