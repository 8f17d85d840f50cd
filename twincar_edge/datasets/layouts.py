"""Detects the layout of labeled images at a path, and opens it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twincar_edge.datasets.dataset import Dataset
from twincar_edge.datasets.files import CLASS_MAPPING, LABELS_CSV, is_csv, is_folders, read_csv, read_folders
from twincar_edge.datasets.parquet import is_parquet, read_parquet
from twincar_edge.datasets.stanford import is_stanford, read_stanford
from twincar_edge.errors import InputError, nearest


@dataclass(frozen=True)
class OpenOptions:
    """Where labeled images are and how to read them; `open_dataset` documents each field."""

    path: Path
    images: Path | None = None
    class_mapping: Path | None = None
    crop: bool = True

    def open(self) -> Dataset:
        """Open the data set; no image is read yet.

        Raises:
            InputError: the path does not exist, has no known layout, or its content is unusable.
        """
        return open_dataset(self.path, images=self.images, class_mapping=self.class_mapping, crop=self.crop)

    def label_files(self) -> list[Path]:
        """Return the files that the labels may come from; not all exist."""
        files = [self.path, self.path / LABELS_CSV, self.path / CLASS_MAPPING, self.path.parent / CLASS_MAPPING]
        return files if self.class_mapping is None else [*files, self.class_mapping]


@dataclass(frozen=True)
class Layout:
    """One layout of labeled images on disk: how to recognize, read and describe it."""

    recognize: Callable[[Path], bool]
    read: Callable[[OpenOptions], Dataset]
    looks_like: str


# In the order of detection: the most specific first.
LAYOUTS = {
    "stanford": Layout(
        is_stanford,
        lambda data: read_stanford(data.path, data.class_mapping, data.crop),
        "a folder with cars_train/ and devkit/cars_train_annos.mat, or with car_ims/ and cars_annos.mat",
    ),
    "csv": Layout(
        is_csv,
        lambda data: read_csv(data.path, data.images, data.class_mapping),
        "a CSV of filename,label, or a folder with labels.csv",
    ),
    "parquet": Layout(
        is_parquet,
        lambda data: read_parquet(data.path, data.class_mapping),
        "a .parquet file, or a folder with data/train-*.parquet",
    ),
    "folders": Layout(
        is_folders,
        lambda data: read_folders(data.path, data.class_mapping),
        "a folder with one subfolder of images for each class, or with train/ and test/ of such folders",
    ),
}


def open_dataset(
    path: Path,
    *,
    images: Path | None = None,
    class_mapping: Path | None = None,
    crop: bool = True,
    layout: str | None = None,
) -> Dataset:
    """Open labeled images in any supported layout. No image is read yet.

    Args:
        path: a CSV, a Parquet file, or a folder of one of the layouts.
        images: the image folder of a CSV; None for `images/` next to the CSV, or the CSV's own folder.
        class_mapping: a class_mapping.json; None for the class names in the data.
        crop: crop to the annotated box, if the layout has one (Stanford Cars).
        layout: a name from `LAYOUTS`; None to detect it.

    Raises:
        InputError: the path does not exist, has no known layout, or its content is unusable or empty.
        MissingExtraError: the layout needs scipy (`stanford`) or pyarrow (`parquet`), and it is not installed.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"no layout {layout!r}: {nearest(layout, tuple(LAYOUTS))}")
    try:
        dataset = _open(OpenOptions(path, images, class_mapping, crop), layout)
    except OSError as error:  # no permission, for example
        raise InputError(f"cannot open {path}: {error.strerror}") from error
    if len(dataset) == 0:
        raise InputError(f"{path} holds no labeled images")
    return dataset


def _open(options: OpenOptions, layout: str | None) -> Dataset:
    path = options.path
    if not path.exists():
        raise InputError(f"{path} does not exist: expected labeled images")
    if layout is None:
        layout = next((name for name, known in LAYOUTS.items() if known.recognize(path)), None)
    if layout is None:
        listed = "; ".join(f"{name}: {known.looks_like}" for name, known in LAYOUTS.items())
        raise InputError(f"{path} has no known layout of labeled images ({listed})")
    if options.images is not None and layout != "csv":
        raise InputError(f"a folder of images can be given only for a CSV; {path} has the layout {layout}")
    return LAYOUTS[layout].read(options)
