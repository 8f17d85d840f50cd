"""The layouts of Stanford Cars: the original download, Kaggle's copies, and all images in one folder.

The download has cars_train/, cars_test/ and devkit/ with MATLAB annotations. Kaggle's copies have the images one folder
deeper (cars_train/cars_train/), and the devkit in car_devkit/. The merged layout has car_ims/ and cars_annos.mat.

Source: Krause, Stark, Deng, Fei-Fei, "3D Object Representations for Fine-Grained Categorization", 2013, and the
devkit's README: one struct per image with bbox_x1, bbox_y1, bbox_x2, bbox_y2 (1-based, both ends inside), class
(1-based) and fname; in cars_annos.mat relative_im_path instead of fname.
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
_DEVKITS = ("devkit", "car_devkit/devkit", ".")
_TRAIN_ANNOTATIONS = "cars_train_annos.mat"
_TEST_ANNOTATIONS = ("cars_test_annos_withlabels.mat", "cars_test_annos_withlabels (1).mat")
_MERGED, _MERGED_ANNOTATIONS = "car_ims", "cars_annos.mat"


def is_stanford(path: Path) -> bool:
    """Return whether `path` is a copy of Stanford Cars, or its cars_train, cars_test or car_ims."""
    return _root(path) is not None or _merged_root(path) is not None


def read_stanford(path: Path, class_mapping: Path | None = None, crop: bool = True) -> Dataset:
    """Open Stanford Cars: all labeled images of a copy, or only those of cars_train or cars_test.

    The labels of cars_test are a separate file (cars_test_annos_withlabels.mat, in devkit/ or next to it); without it,
    cars_test is skipped.

    Raises:
        InputError: an annotation file is missing or is not Stanford's.
        MissingExtraError: scipy, which reads MATLAB files, is not installed.
    """
    root = _root(path)
    if root is None:
        return _read_merged(path, class_mapping, crop)
    devkit = _devkit(root)
    assert devkit is not None, "a root has a devkit"
    if class_mapping is None:
        classes = ClassMapping.from_cars_meta(devkit / "cars_meta.mat")
    else:
        classes = ClassMapping.from_json(class_mapping)
    test = next((file for name in _TEST_ANNOTATIONS for file in (devkit / name, root / name) if file.is_file()), None)
    part = path.name if path != root else ""
    samples: list[Sample] = []
    if part != _TEST:
        samples += _samples(devkit / _TRAIN_ANNOTATIONS, "fname", _images(root, _TRAIN), crop)
    if part != _TRAIN:
        if test is not None:
            samples += _samples(test, "fname", _images(root, _TEST), crop)
        elif part == _TEST:
            raise InputError(f"{path} has no labels: put {_TEST_ANNOTATIONS[0]} in {devkit}")
    return Dataset(path.resolve().name, classes, tuple(samples))


def _read_merged(path: Path, class_mapping: Path | None, crop: bool) -> Dataset:
    root = _merged_root(path)
    if root is None:
        raise InputError(f"{path} has no devkit/{_TRAIN_ANNOTATIONS}: it is not a copy of Stanford Cars")
    annotations = root / _MERGED_ANNOTATIONS
    classes = (
        ClassMapping.from_cars_meta(annotations) if class_mapping is None else ClassMapping.from_json(class_mapping)
    )
    samples = _samples(annotations, "relative_im_path", root / _MERGED, crop)
    return Dataset(path.resolve().name, classes, tuple(samples))


def _root(path: Path) -> Path | None:
    """Return the folder of a copy with a devkit, for it or for its folders of training or test images."""
    above = [path.parent, path.parent.parent] if path.name in (_TRAIN, _TEST) else []
    return next((folder for folder in (path, *above) if _devkit(folder) is not None), None)


def _merged_root(path: Path) -> Path | None:
    above = [path.parent] if path.name == _MERGED else []
    roots = (folder for folder in (path, *above) if (folder / _MERGED_ANNOTATIONS).is_file())
    return next((root for root in roots if (root / _MERGED).is_dir()), None)


def _devkit(root: Path) -> Path | None:
    folders = (root / name for name in _DEVKITS)
    return next((folder for folder in folders if (folder / _TRAIN_ANNOTATIONS).is_file()), None)


def _images(root: Path, name: str) -> Path:
    """Return the folder of the images: one deeper in Kaggle's copies."""
    nested = root / name / name
    return nested if nested.is_dir() else root / name


def _samples(annotations: Path, file_field: str, folder: Path, crop: bool) -> Iterator[Sample]:
    records: Any = read_mat(annotations).get("annotations")
    fields = (*_BOX, "class", file_field)
    if records is None or not set(fields) <= set(getattr(records.dtype, "names", None) or ()):
        raise InputError(f"{annotations} has no structs annotations with {', '.join(fields)}: not Stanford Cars")
    for row, record in enumerate(np.atleast_1d(records), start=1):
        where = f"{annotations} row {row}"
        try:
            left, top, right, bottom = (int(record[field]) for field in _BOX)
            label = int(record["class"]) - 1
        except (TypeError, ValueError) as error:
            raise InputError(f"{where} has a box or class that is not a number") from error
        name = checked_name(str(record[file_field]).removeprefix(f"{_MERGED}/"), where)
        # 1-based inclusive to 0-based with an exclusive end: only the start changes.
        box_xyxy = (left - 1, top - 1, right, bottom) if crop else None
        yield Sample(f"{folder.name}/{name}", label, ImageFile(folder / name), box_xyxy)
