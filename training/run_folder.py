"""What a training leaves behind in its folder, and how the rooms after it find their way in there."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from twincar_edge.datasets import Dataset, OpenOptions, Split, read_split
from twincar_edge.datasets.split import TRAIN_CSV, VALIDATION_CSV
from twincar_edge.datasets.table import read_table
from twincar_edge.errors import InputError, Parameter, first_fault
from twincar_edge.files import remains, write_text
from twincar_edge.records import Record
from twincar_edge.training import artifacts
from twincar_edge.training.checkpoint import CLASS_MAPPING_NAME
from twincar_edge.training.extension import Extending
from twincar_edge.training.recipe import Recipe


class RunRecord(Record):
    """The contents of `recipe.json`: how the model was trained, and where images and other models lay then."""

    recipe: Recipe
    data: OpenOptions | None = None
    teacher: Path | None = None
    extending: Extending | None = None


@dataclass(frozen=True)
class RunFolder:
    """The files of one training. All are written whole or not at all, each epoch's before the next begins."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Return the checkpoint of the best epoch so far."""
        return self.path / "best.pt"

    @property
    def class_mapping(self) -> Path:
        """Return the class names, as TwinCar writes them."""
        return self.path / CLASS_MAPPING_NAME

    @property
    def metrics(self) -> Path:
        """Return the CSV with a row for each epoch."""
        return self.path / "metrics.csv"

    @property
    def state(self) -> Path:
        """Return what a training goes on from after the last epoch that ended."""
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
        """Return the CSV of the images that were left out, and why."""
        return self.path / "integrity.csv"

    @property
    def extension(self) -> Path:
        """Return how the model compares with the one that it extends (`ExtensionReport`)."""
        return self.path / "extension.json"

    @property
    def recipe(self) -> Path:
        """Return the record of recipe and data (`RunRecord`)."""
        return self.path / "recipe.json"

    def files(self) -> tuple[Path, ...]:
        """Return the paths of all that a training writes."""
        split = (self.path / TRAIN_CSV, self.path / VALIDATION_CSV)
        own = (
            self.checkpoint, self.state, self.weights, self.safetensors, self.class_mapping, self.metrics,
            self.integrity, self.recipe, self.environment, self.extension,
        )  # fmt: skip
        pictures = (*artifacts.EVALUATION_FILES, *artifacts.TRAINING_PLOTS, artifacts.GRADCAM_GRID)
        return (*own, *split, *(self.path / name for name in pictures))

    def prepare(self, *, overwrite: bool = False, resume: bool = False) -> None:
        """Make sure that the folder can take a training.

        Args:
            overwrite: remove what an earlier training left; nothing else in the folder is touched.
            resume: the folder holds a training that goes on; what it was writing when it was killed is removed.

        Raises:
            InputError: the folder is not empty and both are False, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if overwrite or resume:
                for file in (*remains(self.path), *(self.files() if overwrite else ())):
                    file.unlink(missing_ok=True)
            elif any(self.path.iterdir()):
                raise InputError(
                    f"{self.path} is not empty: choose another folder, or replace the training in it with ",
                    Parameter("overwrite", True),
                )
        except OSError as error:
            raise InputError(f"cannot write into {self.path}: {error.strerror}") from error

    def write_record(
        self,
        recipe: Recipe,
        data: OpenOptions | None,
        teacher: Path | None = None,
        extending: Extending | None = None,
    ) -> None:
        """Write `recipe.json`; paths become absolute.

        Raises:
            InputError: it cannot be written.
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
        record = RunRecord(recipe=recipe, data=data, teacher=_absolute(teacher), extending=extending)
        write_text(self.recipe, record.model_dump_json(indent=2) + "\n")

    def read_record(self) -> RunRecord:
        """Read `recipe.json`.

        Raises:
            InputError: it is missing, or does not validate.
        """
        try:
            return RunRecord.model_validate_json(self.recipe.read_text("utf-8"))
        except OSError as error:
            raise InputError(
                f"{self.path} is not the folder of a training: cannot read {self.recipe.name} ({error.strerror})"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.recipe} is not UTF-8 text") from error
        except ValidationError as error:
            raise InputError(f"{self.recipe} is not the record of a training, at {first_fault(error)}") from error

    def open_split(self) -> Split:
        """Open the images that this training learned from and those that it held out, where they lay then.

        Raises:
            InputError: the record names no data, or the images or the split are not there any more.
        """
        data = self.read_record().data
        if data is None:
            raise InputError(f"{self.recipe} does not say where the images are: name them with ", Parameter("data"))
        return read_split(data.open(), self.path)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def named_images(split: Path, data: OpenOptions | None) -> Dataset:
    """Return the images that `split` names: the held-out ones of a run (its folder), or those in a CSV.

    Args:
        split: the folder or the CSV.
        data: where the images are; a run's folder may know itself.

    Raises:
        InputError: a CSV comes without `data`, or names images that are not there.
    """
    if split.is_dir():
        return RunFolder(split).open_split().validation if data is None else read_split(data.open(), split).validation
    if data is None:
        raise InputError(f"{split} lists images, but not where they are: add ", Parameter("data"))
    return data.open().select(row.name for row in read_table(split))
