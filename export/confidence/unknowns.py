"""Pictures that show no car that the model knows: what its rejection threshold is chosen on.

Each kind is a `Dataset`, so that one loop (`twincar_edge.dataset_logits`) runs a model over drawn pictures and
files alike. Drawn pictures are drawn when they are first read, from a seed and their number alone, and kept as PNG: an
export reads them for logits and again for embeddings.
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
from twincar_edge.export.open_set.pictures import UNLABELLED, UnknownPictures, open_unknown_pictures, to_png
from twincar_edge.labels import VehicleName
from twincar_edge.synthetic.catalog import CLASS_NAMES
from twincar_edge.synthetic.images import crop_box, draw_twin_car

TWIN_CAR_IMAGES = 192  # 12 of each class: one is half a point, and drawing all takes seconds
NOISE_IMAGES = 99
_KEPT = 512  # drawn pictures in memory, at most 150 KB each: more than an export reads
SEED = 2012
_SIZE_WH = (256, 192)


@dataclass(frozen=True)
class Unknowns:
    """Sets of pictures of no known car, by name, and what is to be said of them.

    `given` are the folders that were given; `sets` has their images together as one set.
    """

    sets: dict[str, Dataset]
    remarks: tuple[str, ...]
    given: tuple[UnknownPictures, ...] = ()

    def cars(self, name: str) -> tuple[VehicleName | None, ...] | None:
        """Return the car on each image of a set; None where no image of it shows one that could be named rightly."""
        return tuple(car for one in self.given for car in one.cars) if name == GIVEN else None


def open_unknowns(classes: Iterable[str], folders: Sequence[Path] = ()) -> Unknowns:
    """Return the sets to judge a threshold by: drawn twin cars, noise, and the images of the folders that are given.

    Args:
        classes: the model's class names. Twin cars that it knows are left out, and where it knows all there are none.
        folders: pictures of anything that the model does not know, as `open_unknown_pictures` takes them.

    Raises:
        InputError: as `open_unknown_pictures`.
    """
    known = tuple(classes)
    labels = [label for label, name in enumerate(CLASS_NAMES) if name not in known]
    sets: dict[str, Dataset] = {}
    remarks: list[str] = []
    if labels:
        sets[TWIN_CARS] = _twin_cars(labels)
    else:
        remarks.append("the model knows all twin cars, so they are no unknown cars to it")
    sets[NOISE] = _noise()
    given = tuple(open_unknown_pictures(folder, known) for folder in folders)
    if given:
        # Folders may hold images of one name.
        samples = (
            replace(sample, name=f"{place}/{sample.name}")
            for place, one in enumerate(given)
            for sample in one.dataset.samples
        )
        sets[GIVEN] = given[0].dataset if len(given) == 1 else Dataset(GIVEN, UNLABELLED, tuple(samples))
    return Unknowns(sets, (*remarks, *(one.remark for one in given if one.remark)), given)


@dataclass(frozen=True)
class _TwinCar:
    """A twin car, cut out loosely as the images of a data set are."""

    label: int
    number: int

    @functools.lru_cache(_KEPT)  # noqa: B019 - it is frozen: what it keeps alive is two numbers
    def read_bytes(self) -> bytes:
        """Draw it, and return it as PNG."""
        rng = np.random.default_rng([SEED, self.number])
        picture = draw_twin_car(self.label, rng, _SIZE_WH)
        return to_png(crop_box(picture.image_bgr, picture.box_xyxy, rng.uniform(0.01, 0.09, 4)))


@dataclass(frozen=True)
class _Noise:
    """A picture of nothing, of one of the kinds in `_KINDS`."""

    kind: str
    number: int

    @functools.lru_cache(_KEPT)  # noqa: B019 - it is frozen: what it keeps alive is two numbers
    def read_bytes(self) -> bytes:
        """Draw it, and return it as PNG."""
        return to_png(_KINDS[self.kind](np.random.default_rng([SEED, self.number])))


def _white(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Every pixel for itself, as from a camera without light."""
    return rng.integers(0, 256, (_SIZE_WH[1], _SIZE_WH[0], 3), dtype=np.uint8)


def _smooth(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Soft patches of colour, from a few large to many small ones, as out of focus."""
    cells = int(rng.integers(2, 25))
    patches = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(patches, _SIZE_WH, interpolation=cv2.INTER_CUBIC), np.uint8)


def _flat(rng: np.random.Generator) -> NDArray[np.uint8]:
    """One colour, as from a covered lens."""
    image = np.empty((_SIZE_WH[1], _SIZE_WH[0], 3), np.uint8)
    image[:] = rng.integers(0, 256, 3)
    return image


_KINDS: dict[str, Callable[[np.random.Generator], NDArray[np.uint8]]] = {
    "white": _white,
    "smooth": _smooth,
    "flat": _flat,
}


def _twin_cars(labels: list[int]) -> Dataset:
    """Return twin cars of these classes in turn."""
    drawn = ((number, labels[number % len(labels)]) for number in range(TWIN_CAR_IMAGES))
    return Dataset(TWIN_CARS, UNLABELLED, tuple(Sample(f"{n:03d}.png", 0, _TwinCar(label, n)) for n, label in drawn))


def _noise() -> Dataset:
    kinds = list(_KINDS)
    drawn = ((number, kinds[number % len(kinds)]) for number in range(NOISE_IMAGES))
    return Dataset(NOISE, UNLABELLED, tuple(Sample(f"{kind}-{n:03d}.png", 0, _Noise(kind, n)) for n, kind in drawn))
