"""Labeled images that are not read yet: the common form of all layouts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.files import as_text
from twincar_edge.images import ImageError, decode_image, read_image_bytes
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import DataRecord


class ImageSource(Protocol):
    """The location of one encoded image; picklable, so that a data loader's worker can read it."""

    def read_bytes(self) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: it is missing or cannot be read.
        """


@dataclass(frozen=True)
class ImageFile:
    """An image in its own file."""

    path: Path

    def read_bytes(self) -> bytes:
        """Return the file's bytes.

        Raises:
            ImageError: the file is missing, is not readable, or is too large.
        """
        return read_image_bytes(self.path)


@dataclass(frozen=True)
class Sample:
    """One labeled image, not yet read.

    `name` is unique in its data set and the same on every machine: a relative path with forward slashes, or
    `file.parquet#row`. `label` indexes the data set's classes. `box_xyxy` is the car's box in pixels of the stored
    image: left, top, right, bottom, the last two exclusive; None for the whole image.
    """

    name: str
    label: int
    source: ImageSource
    box_xyxy: tuple[int, int, int, int] | None = None

    def read(self) -> NDArray[np.uint8]:
        """Read and decode: `image_bgr`, uint8 [H, W, 3], cropped to the box, if any.

        Raises:
            ImageError: the image is missing, truncated or not an image, or its box lies outside it.
        """
        return self.decode(self.source.read_bytes())

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Decode bytes that the caller has read already; otherwise like `read`.

        Raises:
            ImageError: as `read`.
        """
        image_bgr = decode_image(data, self.name)
        if self.box_xyxy is None:
            return image_bgr
        rows, columns = image_bgr.shape[:2]
        left, top, right, bottom = self.box_xyxy
        crop = image_bgr[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if crop.size == 0:
            raise ImageError(
                "degenerate box", f"{self.name}: nothing of the box {self.box_xyxy} lies in the {columns}x{rows} image"
            )
        return np.ascontiguousarray(crop)


@dataclass(frozen=True)
class Dataset:
    """Labeled images with one class mapping.

    Raises:
        InputError: a name is not unique, or a label is outside the classes.
    """

    name: str
    classes: ClassMapping
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        """Check that names are unique and labels are among the classes."""
        object.__setattr__(self, "name", as_text(self.name))  # the name of a file or folder
        names: set[str] = set()
        for sample in self.samples:
            if sample.name in names:
                raise InputError(f"{sample.name!r} appears twice in the data set {self.name}")
            if not 0 <= sample.label < len(self.classes):
                raise InputError(
                    f"{sample.name!r} has label {sample.label}, outside the {len(self.classes)} classes of {self.name}"
                )
            names.add(sample.name)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the labels in the order of the samples, int64 [N]."""
        return np.array([sample.label for sample in self.samples], np.int64)

    def select(self, names: Iterable[str]) -> Dataset:
        """Return a data set of only these samples, in the order of `names`.

        Raises:
            InputError: a name is not in the data set, or is given twice.
        """
        by_name = {sample.name: sample for sample in self.samples}
        wanted = list(names)
        missing = [name for name in wanted if name not in by_name]
        if missing:
            first = ", ".join(repr(name) for name in missing[:3]) + (", …" if len(missing) > 3 else "")
            raise InputError(f"{len(missing)} of {len(wanted)} names are not in the data set {self.name}: {first}")
        return replace(self, samples=tuple(by_name[name] for name in wanted))

    def digest(self) -> str:
        """Return a SHA-256, 64 hex digits, over sample names and their class names, whatever their order.

        It shows whether two models saw the same labeled images. The images themselves are not read.
        """
        lines = sorted(f"{sample.name}\0{self.classes[sample.label]}\n" for sample in self.samples)
        return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()

    def record(self) -> DataRecord:
        """Return the record of this data set for a model's manifest."""
        return DataRecord(name=self.name, images=len(self), digest=self.digest())
