"""Pictures that show no car that the model knows: what its rejection threshold is chosen on.

Each kind is a `Dataset`, so that one loop (`twincar_edge.dataset_logits`) runs a model over drawn pictures and
files alike. Drawn pictures are drawn when they are read, from a seed and their number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset, ImageFile, Sample, check_integrity
from twincar_edge.errors import InputError
from twincar_edge.export.confidence.report import GIVEN, NOISE, TWIN_CARS
from twincar_edge.images import IMAGE_SUFFIXES
from twincar_edge.labels import ClassMapping
from twincar_edge.synthetic.catalog import CLASS_NAMES
from twincar_edge.synthetic.images import crop_box, draw_twin_car

TWIN_CAR_IMAGES = 192  # 12 of each class: one is half a point, and drawing all takes seconds
NOISE_IMAGES = 99
SEED = 2012
_SIZE_WH = (256, 192)
_CLASSES = ClassMapping(("unknown",))


@dataclass(frozen=True)
class Unknowns:
    """Sets of pictures of no known car, by name, and what is to be said of them."""

    sets: dict[str, Dataset]
    remarks: tuple[str, ...]


def open_unknowns(classes: Iterable[str], folder: Path | None = None) -> Unknowns:
    """Return the sets to judge a threshold by: drawn twin cars, noise, and the images of `folder` where one is given.

    Args:
        classes: the model's class names. Twin cars that it knows are left out, and where it knows all there are none.
        folder: pictures of anything that the model does not know, also in folders inside it.

    Raises:
        InputError: the folder cannot be read or holds no usable image.
    """
    known = frozenset(classes)
    labels = [label for label, name in enumerate(CLASS_NAMES) if name not in known]
    sets: dict[str, Dataset] = {}
    remarks: list[str] = []
    if labels:
        sets[TWIN_CARS] = _twin_cars(labels)
    else:
        remarks.append("the model knows all twin cars, so they are no unknown cars to it")
    sets[NOISE] = _noise()
    if folder is not None:
        sets[GIVEN], remark = _given(folder)
        remarks += [remark] if remark else []
    return Unknowns(sets, tuple(remarks))


@dataclass(frozen=True)
class _TwinCar:
    """A twin car, cut out loosely as the images of a data set are."""

    label: int
    number: int

    def read_bytes(self) -> bytes:
        """Draw it, and return it as PNG."""
        rng = np.random.default_rng([SEED, self.number])
        picture = draw_twin_car(self.label, rng, _SIZE_WH)
        return _png(crop_box(picture.image_bgr, picture.box_xyxy, rng.uniform(0.01, 0.09, 4)))


@dataclass(frozen=True)
class _Noise:
    """A picture of nothing, of one of the kinds in `_KINDS`."""

    kind: str
    number: int

    def read_bytes(self) -> bytes:
        """Draw it, and return it as PNG."""
        return _png(_KINDS[self.kind](np.random.default_rng([SEED, self.number])))


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
    return Dataset(TWIN_CARS, _CLASSES, tuple(Sample(f"{n:03d}.png", 0, _TwinCar(label, n)) for n, label in drawn))


def _noise() -> Dataset:
    kinds = list(_KINDS)
    drawn = ((number, kinds[number % len(kinds)]) for number in range(NOISE_IMAGES))
    return Dataset(NOISE, _CLASSES, tuple(Sample(f"{kind}-{n:03d}.png", 0, _Noise(kind, n)) for n, kind in drawn))


def _given(folder: Path) -> tuple[Dataset, str]:
    """Return a folder's usable images, each once, and a line about those that were left out, or ""."""
    if not folder.is_dir():
        raise InputError(f"the folder of unknown images {folder} does not exist")
    try:
        files = sorted(path for path in folder.rglob("*") if _is_image(path.relative_to(folder)) and path.is_file())
    except OSError as error:
        raise InputError(f"cannot read the folder of unknown images {folder}: {error.strerror}") from error
    samples = tuple(Sample(_shown(path.relative_to(folder)), 0, ImageFile(path)) for path in files)
    usable, report = check_integrity(Dataset(GIVEN, _CLASSES, samples))
    counts = ", ".join(f"{count} {problem}" for problem, count in report.counts.items())
    if len(usable) == 0:
        found = f"none of its {report.checked} is usable ({counts})" if report.checked else "it holds none"
        raise InputError(f"expected images of what the model does not know in {folder}: {found}")
    if not counts:
        return usable, ""
    return usable, (
        f"{len(report.findings)} of the {report.checked} given images were left out: {counts} "
        f"(the first is {report.findings[0].name})"
    )


def _is_image(relative: Path) -> bool:
    return relative.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _shown(relative: Path) -> str:
    """Return a name that can be printed and written as UTF-8, whatever bytes the file's name is made of."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in relative.as_posix())


def _png(image_bgr: NDArray[np.uint8]) -> bytes:
    _, data = cv2.imencode(".png", image_bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()
