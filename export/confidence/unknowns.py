"""Images that show no car of the model's classes, for choosing the rejection threshold.

Each set is a `Dataset`, so that `twincar_edge.dataset_logits` handles synthetic images and files in the same way.
Synthetic images are drawn on first access, from a seed and their number, and cached as PNG, because an export reads
them for logits and again for embeddings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset, Sample
from twincar_edge.export.confidence.report import GIVEN, NOISE, TWIN_CARS
from twincar_edge.export.open_set.pictures import UNLABELED, UnknownPictures, open_unknown_pictures, to_png
from twincar_edge.labels import VehicleName
from twincar_edge.synthetic.catalog import CLASS_NAMES
from twincar_edge.synthetic.images import crop_box, draw_twin_car

TWIN_CAR_IMAGES = 192  # 12 per class; one image is half a percentage point, and drawing all takes seconds
NOISE_IMAGES = 99
_CACHED_IMAGES = 512  # at most 150 KB each; more than an export reads
SEED = 2012
_SIZE_WH = (256, 192)


@dataclass(frozen=True)
class Unknowns:
    """Sets of images without a known car, by name, with remarks for the report.

    `given` are the user's folders; `sets` contains their images as one set.
    """

    sets: dict[str, Dataset]
    remarks: tuple[str, ...]
    given: tuple[UnknownPictures, ...] = ()

    def cars(self, name: str) -> tuple[VehicleName | None, ...] | None:
        """Return the car on each image of a set, or None for a set in which any name is wrong."""
        return tuple(car for one in self.given for car in one.cars) if name == GIVEN else None


def open_unknowns(classes: Iterable[str], folders: Sequence[Path] = ()) -> Unknowns:
    """Return the sets for choosing a threshold: synthetic twin cars, noise, and the images of the given folders.

    Args:
        classes: the model's class names. Twin cars of these classes are excluded; if all are, there is no such set.
        folders: folders of images of unknown things, as in `open_unknown_pictures`.

    Raises:
        InputError: as in `open_unknown_pictures`.
    """
    known = tuple(classes)
    labels = [label for label, name in enumerate(CLASS_NAMES) if name not in known]
    sets: dict[str, Dataset] = {}
    remarks: list[str] = []
    if labels:
        sets[TWIN_CARS] = _twin_cars(labels)
    else:
        remarks.append("the model knows all twin cars, so they cannot serve as unknown cars")
    sets[NOISE] = _noise()
    given = tuple(open_unknown_pictures(folder, known) for folder in folders)
    if given:
        # The prefix makes names unique across folders.
        samples = (
            replace(sample, name=f"{place}/{sample.name}")
            for place, one in enumerate(given)
            for sample in one.dataset.samples
        )
        sets[GIVEN] = given[0].dataset if len(given) == 1 else Dataset(GIVEN, UNLABELED, tuple(samples))
    return Unknowns(sets, (*remarks, *(one.remark for one in given if one.remark)), given)


@dataclass(frozen=True)
class _TwinCar:
    """A synthetic twin car, cropped with a margin as in a data set."""

    label: int
    number: int

    @functools.lru_cache(_CACHED_IMAGES)  # noqa: B019 - the cache keeps alive only two numbers per instance
    def read_bytes(self) -> bytes:
        """Draw the image and return it as PNG."""
        rng = np.random.default_rng([SEED, self.number])
        picture = draw_twin_car(self.label, rng, _SIZE_WH)
        return to_png(crop_box(picture.image_bgr, picture.box_xyxy, rng.uniform(0.01, 0.09, 4)))


@dataclass(frozen=True)
class _Noise:
    """A noise image of one of the kinds in `_KINDS`."""

    kind: str
    number: int

    @functools.lru_cache(_CACHED_IMAGES)  # noqa: B019 - the cache keeps alive only two values per instance
    def read_bytes(self) -> bytes:
        """Draw the image and return it as PNG."""
        return to_png(_KINDS[self.kind](np.random.default_rng([SEED, self.number])))


def _white(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Independent random pixels, as from a camera without light."""
    return rng.integers(0, 256, (_SIZE_WH[1], _SIZE_WH[0], 3), dtype=np.uint8)


def _smooth(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Soft patches of color, from a few large to many small ones, as in an out-of-focus image."""
    cells = int(rng.integers(2, 25))
    patches = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(patches, _SIZE_WH, interpolation=cv2.INTER_CUBIC), np.uint8)


def _flat(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A single color, as from a covered lens."""
    image = np.empty((_SIZE_WH[1], _SIZE_WH[0], 3), np.uint8)
    image[:] = rng.integers(0, 256, 3)
    return image


_KINDS: dict[str, Callable[[np.random.Generator], NDArray[np.uint8]]] = {
    "white": _white,
    "smooth": _smooth,
    "flat": _flat,
}


def _twin_cars(labels: list[int]) -> Dataset:
    """Return the data set of twin cars, cycling through these classes."""
    drawn = ((number, labels[number % len(labels)]) for number in range(TWIN_CAR_IMAGES))
    return Dataset(TWIN_CARS, UNLABELED, tuple(Sample(f"{n:03d}.png", 0, _TwinCar(label, n)) for n, label in drawn))


def _noise() -> Dataset:
    kinds = list(_KINDS)
    drawn = ((number, kinds[number % len(kinds)]) for number in range(NOISE_IMAGES))
    return Dataset(NOISE, UNLABELED, tuple(Sample(f"{kind}-{n:03d}.png", 0, _Noise(kind, n)) for n, kind in drawn))
