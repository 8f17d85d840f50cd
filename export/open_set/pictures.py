"""Pictures of what a model does not know: a folder of images, with the cars on them where a table names these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset, ImageFile, IntegrityReport, Sample, check_integrity
from twincar_edge.datasets.files import images_folder
from twincar_edge.datasets.table import read_records
from twincar_edge.errors import InputError
from twincar_edge.images import IMAGE_SUFFIXES
from twincar_edge.labels import MAX_NAME_LENGTH, ClassMapping, VehicleName, parse_name
from twincar_edge.preprocess import shrink_to

CARS_CSV = "cars.csv"
COLUMNS = ("filename", "make", "model")
KIND = "kind"  # a further column of the table: where its pictures come from, such as "web"
UNLABELLED = ClassMapping(("unknown",))


@dataclass(frozen=True)
class UnknownPictures:
    """A folder of pictures of what a model does not know.

    Attributes:
        dataset: the usable images, all under one label that says nothing.
        cars: make and model of the car on each image, as the model spells them where it knows them; None where the
            image shows no car, or nobody said which. Any name is then a wrong one.
        kinds: where each image comes from, "" where nobody said.
        remark: a line about images that were left out, or "".
    """

    dataset: Dataset
    cars: tuple[VehicleName | None, ...]
    kinds: tuple[str, ...]
    remark: str


def open_unknown_pictures(folder: Path, classes: Iterable[str]) -> UnknownPictures:
    """Open a folder of pictures of what a model does not know.

    With a `cars.csv` (filename, make, model, and kind if wanted) the folder shows the cars that this names, in
    `images/` or beside it; a row without make and model is a thing that is no car. Without it, all images count, also
    those in folders inside, and none shows a car that anybody named.

    Args:
        folder: the folder.
        classes: the model's class names.

    Raises:
        InputError: the folder or its table cannot be read, it holds no usable image, or a car is one that the model
            knows.
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
    usable, report = check_integrity(Dataset(name, UNLABELLED, samples))
    if len(usable) == 0:
        counts = _counts(report)
        found = f"none of its {report.checked} is usable ({counts})" if report.checked else "it holds none"
        raise InputError(f"expected images of what the model does not know in {folder}: {found}")
    names = [sample.name for sample in usable.samples]
    return UnknownPictures(
        usable, tuple(cars.get(name) for name in names), tuple(kinds.get(name, "") for name in names), _remark(report)
    )


def shrunken(dataset: Dataset, side: int) -> Dataset:
    """Return a data set of the same images with their shorter side reduced to `side` pixels; smaller ones stay."""
    samples = (Sample(sample.name, sample.label, _Shrunken(sample, side)) for sample in dataset.samples)
    return Dataset(dataset.name, dataset.classes, tuple(samples))


@dataclass(frozen=True)
class _Shrunken:
    """An image that is reduced when it is read."""

    sample: Sample
    side: int

    def read_bytes(self) -> bytes:
        """Read and reduce it, and return it as PNG."""
        return to_png(shrink_to(self.sample.read(), self.side))


def to_png(image_bgr: NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 [H, W, 3], as PNG, packed fast rather than tightly."""
    _, data = cv2.imencode(".png", image_bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


def shown_name(text: str) -> str:
    """Return a name that can be printed and written as UTF-8, whatever bytes the file's name is made of."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _read_table(
    table: Path, classes: tuple[str, ...]
) -> tuple[tuple[Sample, ...], dict[str, VehicleName | None], dict[str, str]]:
    """Return the images that a table names, and by their names the cars and the kinds."""
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
                f"{where} has a model and no make: name the make, or leave both empty where there is no car"
            )
        car = spelling.car(fields["make"], fields["model"]) if fields["make"] else None
        if car is not None and str(car) in classes:
            raise InputError(f"{where}: {str(car)!r} is a class of the model, and no unknown car: take the row out")
        cars[name], kinds[name] = car, " ".join(fields.get(KIND, "").split())
    return tuple(Sample(name, 0, ImageFile(images / name)) for _, name, _ in rows), cars, kinds


class _Spelling:
    """Makes and models as the classes spell them: "Fiat" as "FIAT", "Mercedes-Benz" as "Mercedes Benz"."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        vehicles = [parse_name(name) for name in classes]
        self._makes = {_folded(vehicle.make): vehicle.make for vehicle in vehicles}
        self._models = {(vehicle.make, _folded(vehicle.model)): vehicle.model for vehicle in vehicles}

    def car(self, make: str, model: str) -> VehicleName:
        make = self._makes.get(_folded(make), " ".join(make.split()))
        # A make of one word, so that the rest is parsed as the model, whatever it is.
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
        f"{len(report.findings)} of the {report.checked} given images were left out: {_counts(report)} "
        f"(the first is {report.findings[0].name})"
    )
