"""Images of unknown things: a folder of images, with an optional table of the cars on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset, ImageFile, IntegrityReport, Sample, check_integrity
from twincar_edge.datasets.files import images_folder, stored_image
from twincar_edge.datasets.table import read_records
from twincar_edge.errors import InputError
from twincar_edge.images import IMAGE_SUFFIXES
from twincar_edge.labels import MAX_NAME_LENGTH, ClassMapping, VehicleName, parse_name
from twincar_edge.preprocess import shrink_to

CARS_CSV = "cars.csv"
COLUMNS = ("filename", "make", "model")
KIND = "kind"  # an optional column of the table: the source of the images, such as "web"
_SEED = 0
UNLABELED = ClassMapping(("unknown",))


@dataclass(frozen=True)
class UnknownPictures:
    """A folder of images of things that are not among a model's classes.

    Attributes:
        dataset: the usable images, all with one dummy label.
        cars: make and model of the car on each image, in the model's spelling if it has them; None if the image shows
            no car or the car is not given, so that any name is wrong.
        kinds: the source of each image, "" if not given.
        remark: a line about excluded images, or "".
    """

    dataset: Dataset
    cars: tuple[VehicleName | None, ...]
    kinds: tuple[str, ...]
    remark: str


def open_unknown_pictures(folder: Path, classes: Iterable[str]) -> UnknownPictures:
    """Open a folder of images of things that are not among a model's classes.

    A `cars.csv` (filename, make, model, optional kind) lists the images, which are in `images/` or next to it; a row
    without make and model is for an image without a car. Without `cars.csv`, all images count, including those in
    subfolders, and no car is given.

    Args:
        folder: the folder.
        classes: the model's class names.

    Raises:
        InputError: the folder or its table cannot be read, there are no usable images, or a car is one of the model's
            classes.
    """
    if not folder.is_dir():
        raise InputError(f"the folder of unknown images {folder} does not exist")
    name = shown_name(folder.resolve().name)
    table = folder / CARS_CSV
    if table.is_file():
        samples, cars, kinds = _read_table(table, tuple(classes))
    else:
        samples = _images_in(folder)
        cars, kinds = {}, {}
    usable, report = check_integrity(Dataset(name, UNLABELED, samples))
    if len(usable) == 0:
        counts = _counts(report)
        found = f"none of its {report.checked} images is usable ({counts})" if report.checked else "it has no images"
        raise InputError(f"cannot use the folder of unknown images {folder}: {found}")
    names = [sample.name for sample in usable.samples]
    return UnknownPictures(
        usable, tuple(cars.get(name) for name in names), tuple(kinds.get(name, "") for name in names), _remark(report)
    )


def shrunken(dataset: Dataset, side: int) -> Dataset:
    """Return the images with their shorter side reduced to `side` pixels; smaller images do not change."""
    return changed_when_read(dataset, lambda sample, _: shrink_to(sample.read(), side))


def changed_when_read(dataset: Dataset, read: Callable[[Sample, np.random.Generator], NDArray[np.uint8]]) -> Dataset:
    """Return a data set whose images `read` returns, uint8 [H, W, 3], from a sample of `dataset`.

    Each image has its own random numbers, by its number in the data set, so every read gives the same pixels.
    """
    samples = (
        Sample(sample.name, sample.label, _Changed(sample, number, read))
        for number, sample in enumerate(dataset.samples)
    )
    return Dataset(dataset.name, dataset.classes, tuple(samples))


@dataclass(frozen=True)
class _Changed:
    """An image that is changed when it is read."""

    sample: Sample
    number: int
    read: Callable[[Sample, np.random.Generator], NDArray[np.uint8]]

    def read_bytes(self) -> bytes:
        """Read and change the image, and return it as PNG."""
        random = np.random.default_rng([_SEED, self.number])
        return to_png(np.ascontiguousarray(self.read(self.sample, random)))


def to_png(image_bgr: NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 [H, W, 3], as PNG with fast compression."""
    _, data = cv2.imencode(".png", image_bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


def shown_name(text: str) -> str:
    """Return a file name with unprintable characters escaped, so that it can be printed and encoded as UTF-8."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _read_table(
    table: Path, classes: tuple[str, ...]
) -> tuple[tuple[Sample, ...], dict[str, VehicleName | None], dict[str, str]]:
    """Return the images in a table, and their cars and kinds by name."""
    rows = read_records(table, COLUMNS)
    images = images_folder(table.parent, [name for _, name, _ in rows])
    spelling = _Spelling(classes)
    cars: dict[str, VehicleName | None] = {}
    kinds: dict[str, str] = {}
    for line, name, fields in rows:
        where = f"{table} line {line}"
        for column in ("make", "model", KIND):
            _check_text(fields.get(column, ""), column, where)
        if fields["model"] and not fields["make"]:
            raise InputError(
                f"{where} has a model but no make: add the make, or leave both empty for an image without a car"
            )
        car = spelling.car(fields["make"], fields["model"]) if fields["make"] else None
        if car is not None and str(car) in classes:
            raise InputError(f"{where}: {str(car)!r} is a class of the model, not an unknown car: remove the row")
        cars[name], kinds[name] = car, " ".join(fields.get(KIND, "").split())
    return tuple(Sample(name, 0, ImageFile(stored_image(images, name))) for _, name, _ in rows), cars, kinds


class _Spelling:
    """Converts names to the spelling of the classes: "Fiat" to "FIAT", "Mercedes-Benz" to "Mercedes Benz"."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        vehicles = [parse_name(name) for name in classes]
        self._makes = {_folded(vehicle.make): vehicle.make for vehicle in vehicles}
        self._models = {(vehicle.make, _folded(vehicle.model)): vehicle.model for vehicle in vehicles}

    def car(self, make: str, model: str) -> VehicleName:
        make = self._makes.get(_folded(make), " ".join(make.split()))
        # With a dummy make of one word, the rest is always parsed as the model.
        parts = parse_name(f"Make {' '.join(model.split())}")
        return VehicleName(
            make, self._models.get((make, _folded(parts.model)), parts.model), parts.body_type, parts.year
        )


def _folded(text: str) -> str:
    return " ".join(text.replace("-", " ").casefold().split())


def _check_text(text: str, column: str, where: str) -> None:
    if len(text) > MAX_NAME_LENGTH or not text.isprintable():
        raise InputError(f"{where}: the {column} {text[:60]!r} is too long or not printable")


def _images_in(folder: Path) -> tuple[Sample, ...]:
    try:
        files = sorted(path for path in folder.rglob("*") if _is_image(path.relative_to(folder)) and path.is_file())
    except OSError as error:
        raise InputError(f"cannot read the folder of unknown images {folder}: {error.strerror}") from error
    return tuple(Sample(shown_name(path.relative_to(folder).as_posix()), 0, ImageFile(path)) for path in files)


def _is_image(relative: Path) -> bool:
    return relative.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _counts(report: IntegrityReport) -> str:
    return ", ".join(f"{count} {problem}" for problem, count in report.counts.items())


def _remark(report: IntegrityReport) -> str:
    if not report.findings:
        return ""
    return (
        f"{len(report.findings)} of the {report.checked} given images were excluded: {_counts(report)} "
        f"(the first is {report.findings[0].name})"
    )
