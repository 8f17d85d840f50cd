"""The layout of a run folder: the files that training writes and later commands read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from twincar_edge.datasets import Dataset, OpenOptions, Split, read_split
from twincar_edge.datasets.files import CLASS_MAPPING
from twincar_edge.datasets.split import TRAIN_CSV, VALIDATION_CSV
from twincar_edge.datasets.table import read_table
from twincar_edge.errors import InputError, Parameter, first_fault
from twincar_edge.files import check_name, check_utf8, make_folder, remains, write_text
from twincar_edge.records import Record
from twincar_edge.training import artifacts
from twincar_edge.training.extension import ExtensionConfig
from twincar_edge.training.recipe import Recipe


class RunRecord(Record):
    """The contents of `recipe.json`: the recipe, and the paths of the images and other models at that time.

    `folds` is the number of runs of a cross-validation, in subfolders; None for a single run.
    """

    recipe: Recipe
    data: OpenOptions | None = None
    weights_file: Path | None = None
    teacher: Path | None = None
    extending: ExtensionConfig | None = None
    folds: int | None = None


@dataclass(frozen=True)
class RunFolder:
    """The files of one training run. All are written atomically, those of an epoch before the next one starts."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Return the checkpoint of the best epoch so far."""
        return self.path / "best.pt"

    @property
    def class_mapping(self) -> Path:
        """Return the class names in TwinCar's format."""
        return self.path / CLASS_MAPPING

    @property
    def metrics(self) -> Path:
        """Return the CSV with a row for each epoch."""
        return self.path / "metrics.csv"

    @property
    def state(self) -> Path:
        """Return the state after the last completed epoch, from which training resumes."""
        return self.path / "last.pt"

    @property
    def weights(self) -> Path:
        """Return the best epoch's bare state dict: for `resnet50`, in the original TwinCar's key layout."""
        return self.path / "twin_car_best_model.pth"

    @property
    def safetensors(self) -> Path:
        """Return the best epoch's checkpoint as safetensors."""
        return self.path / "twin_car_best_model.safetensors"

    @property
    def environment(self) -> Path:
        """Return the record of machine and versions."""
        return self.path / "environment.json"

    @property
    def integrity(self) -> Path:
        """Return the CSV of excluded images with the reasons."""
        return self.path / "integrity.csv"

    @property
    def extension(self) -> Path:
        """Return the comparison with the model that this one extends (`ExtensionReport`)."""
        return self.path / "extension.json"

    @property
    def folds(self) -> tuple[Path, Path]:
        """Return what a cross-validation found, as JSON and as a table."""
        return self.path / "folds.json", self.path / "folds.md"

    @property
    def replaced(self) -> Path:
        """Return the folder that has the files of an earlier run until the first epoch of the run in its place."""
        return self.path / "replaced"

    def fold(self, number: int) -> RunFolder:
        """Return the run of a fold, counted from 1."""
        return RunFolder(self.path / f"fold-{number}")

    @property
    def recipe(self) -> Path:
        """Return the record of recipe and data (`RunRecord`)."""
        return self.path / "recipe.json"

    def files(self) -> tuple[Path, ...]:
        """Return the paths of all files that training writes."""
        split = (self.path / TRAIN_CSV, self.path / VALIDATION_CSV)
        own = (
            self.checkpoint, self.state, self.weights, self.safetensors, self.class_mapping, self.metrics,
            self.integrity, self.recipe, self.environment, self.extension, *self.folds,
        )  # fmt: skip
        pictures = (*artifacts.EVALUATION_FILES, *artifacts.TRAINING_PLOTS, artifacts.GRADCAM_GRID)
        return (*own, *split, *(self.path / name for name in pictures))

    def runs(self) -> list[RunFolder]:
        """Return the runs of the folds, if this is a cross-validation, and this folder itself.

        Raises:
            InputError: the record is invalid.
        """
        folds = (self.read_record().folds or 0) if self.recipe.is_file() else 0
        return [*(self.fold(number) for number in range(1, folds + 1)), self]

    def removable(self) -> list[Path]:
        """Return the files of all runs in the order of their removal, without `integrity.csv` of the new run.

        The record is removed last: until then, this is still known to be a run, whose removal can be repeated.

        Raises:
            InputError: as `runs`.
        """
        files = [file for run in self.runs() for file in run.files() if file != run.integrity]
        return sorted(files, key=lambda file: file == self.recipe)

    def prepare(
        self,
        *,
        overwrite: bool = False,
        resume: bool = False,
        data: OpenOptions | None = None,
        models: Iterable[Path | None] = (),
    ) -> None:
        """Create the folder if necessary, and check that a run can write to it. Nothing in it changes.

        Args:
            overwrite: accept the folder of an earlier run, to be replaced (`clear`).
            resume: accept the folder of the run to resume.
            data: the images of the new run.
            models: the weights and models that it reads.

        Raises:
            InputError: the folder cannot be created, or is not empty and both parameters are False; with `overwrite`,
                it has files named like those of a run but no readable recipe, or contains the data or a model; the
                path of the data or of a model is not UTF-8.
        """
        given = (*models, *((data.path, data.images, data.class_mapping) if data is not None else ()))
        for path in given:
            if path is not None and not resume:
                check_utf8(path.absolute(), f"cannot train from {path.absolute()}")  # JSON has no other names
        make_folder(self.path)
        try:
            if overwrite:
                self._check_replaceable(data, models)
            elif not resume and any(path != self.integrity for path in self.path.iterdir()):
                raise InputError(
                    f"{self.path} is not empty: choose another folder, or replace the run in it with ",
                    Parameter("overwrite", True),
                )
        except OSError as error:
            raise InputError(f"cannot write into {self.path}: {error.strerror}") from error

    def _check_replaceable(self, data: OpenOptions | None, models: Iterable[Path | None]) -> None:
        # A training that could not start leaves `integrity.csv` alone, with the reasons.
        found = [file.name for file in self.files() if file != self.integrity and file.exists()]
        if found:
            try:
                self.read_record()
            except InputError as error:
                raise InputError(f"cannot replace {found[0]}: {error}; choose another folder") from error
        inside = {run.path.resolve() for top in (self, RunFolder(self.replaced)) for run in top.runs()}
        given = (*models, *((data.path, data.class_mapping) if data is not None else ()))
        for path in (path.resolve() for path in given if path is not None):
            if path in inside or path.parent in inside:
                raise InputError(f"{self.path} contains {path.name}, which the training reads: choose another folder")

    def clear(self, *, overwrite: bool = False) -> None:
        """Remove incomplete files of a run that was killed, and with `overwrite` all files of an earlier run.

        Other files stay, and so does `integrity.csv`, which the check of the new run's images has written. Call this
        once nothing else can keep the new run from starting.

        Raises:
            InputError: a file cannot be removed.
        """
        files = self.removable() if overwrite else []
        try:
            for file in (*remains(self.path), *files):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot write into {self.path}: {error.strerror}") from error

    def write_record(
        self,
        recipe: Recipe,
        data: OpenOptions | None,
        weights_file: Path | None = None,
        teacher: Path | None = None,
        extending: ExtensionConfig | None = None,
        folds: int | None = None,
    ) -> None:
        """Write `recipe.json` with absolute paths.

        Raises:
            InputError: the file cannot be written.
        """
        if data is not None:
            data = dataclasses.replace(
                data,
                path=data.path.absolute(),
                images=_absolute(data.images),
                class_mapping=_absolute(data.class_mapping),
            )
        if extending is not None:
            extending = extending.model_copy(update={"model": extending.model.absolute()})
        record = RunRecord(
            recipe=recipe,
            data=data,
            weights_file=_absolute(weights_file),
            teacher=_absolute(teacher),
            extending=extending,
            folds=folds,
        )
        write_text(self.recipe, record.model_dump_json(indent=2) + "\n")

    def read_record(self) -> RunRecord:
        """Read `recipe.json`.

        Raises:
            InputError: the file is missing or invalid.
        """
        check_name(self.path)
        try:
            return RunRecord.model_validate_json(self.recipe.read_text("utf-8"))
        except OSError as error:
            raise InputError(
                f"{self.path} is not a run folder: cannot read {self.recipe.name} ({error.strerror})"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.recipe} is not UTF-8 text") from error
        except ValidationError as error:
            raise InputError(f"{self.recipe} is not a valid training record, at {first_fault(error)}") from error

    def open_split(self) -> Split:
        """Open the training and validation images from their recorded location.

        Raises:
            InputError: nothing was held out, the record has no location, or the images or the split no longer exist.
        """
        return _with_held_out(self.open_images(), self.path)

    def open_images(self) -> Split:
        """Open the training images and the validation images, if any.

        Raises:
            InputError: the record has no location, or the images or the split no longer exist.
        """
        data = self.read_record().data
        if data is None:
            raise InputError(
                f"{self.recipe} does not record where the images are: give the data with ", Parameter("data")
            )
        return read_split(data.open(), self.path)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _with_held_out(split: Split, run: Path) -> Split:
    if len(split.validation) == 0:
        raise InputError(f"{run} held out no images: give images that it was not trained on with ", Parameter("data"))
    return split


def named_images(split: Path, data: OpenOptions | None) -> Dataset:
    """Return the images of `split`: the held-out ones of a run folder, or those listed in a CSV.

    Args:
        split: the run folder or the CSV.
        data: the location of the images; optional for a run folder that records it.

    Raises:
        InputError: the run held nothing out, or a CSV is given without `data`, or lists images that do not exist.
    """
    if split.is_dir():
        run = RunFolder(split)
        images = run.open_split() if data is None else _with_held_out(read_split(data.open(), split), split)
        return images.validation
    if data is None:
        raise InputError(f"{split} lists images, but not their location: add ", Parameter("data"))
    return data.open().select(row.name for row in read_table(split))
