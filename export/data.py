"""Which images an export calibrates on, and which it checks on: those that the training held out, wherever possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from twincar_edge.datasets import Dataset, OpenOptions, Split, check_integrity, read_split, stratified_split
from twincar_edge.datasets.split import TRAIN_CSV, VALIDATION_CSV
from twincar_edge.datasets.table import read_table
from twincar_edge.errors import InputError, ModelError, Parameter
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.progress import Progress
from twincar_edge.training.run_folder import RunFolder

CALIBRATION_BATCH = 4  # ONNX Runtime calibrates without optimization and keeps much in memory; more gains little
CALIBRATION_SEED = 0


class _SplitChoices(BaseModel):
    """The part of a recipe that says how `fit` split its images."""

    seed: Annotated[int, Field(ge=0)] = 0
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1


def open_split(model: Path, recipe: Mapping[str, Any], data: OpenOptions | None) -> Split:
    """Return the images to calibrate on and those to check on.

    Without `data` they are those of the training, from the folder that the model lies in. Images that are given are
    split as the training split them, where its lists name them; all others are split here, with the recipe's share and
    seed, so that a second export sees the same.

    Args:
        model: the checkpoint's file, or one that was made of it.
        recipe: how it was trained.
        data: labelled images.

    Raises:
        InputError: there are no images, or they are not what the training's lists say.
        ModelError: the recipe cannot be used.
    """
    run = RunFolder(model.parent)
    if data is None:
        if not run.recipe.is_file():
            raise InputError(
                f"no images to compare answers on: there is no {run.recipe.name} of a training beside {model}; "
                "give labelled images with ",
                Parameter("data"),
            )
        return run.open_split()
    dataset = data.open()
    if _is_named_by(run, dataset):
        return read_split(dataset, run.path)
    try:
        choices = _SplitChoices.model_validate(dict(recipe))
    except ValidationError as error:
        raise ModelError(f"the recipe in {model} has no usable seed or validation_share") from error
    usable, _ = check_integrity(dataset)
    return stratified_split(usable, choices.validation_share, choices.seed)


def calibration_samples(train: Dataset, images: int) -> Dataset:
    """Return the training images that calibration looks at: `images` of them, or all where there are fewer.

    Raises:
        InputError: there are none.
    """
    if len(train) == 0:
        raise InputError("INT8 is calibrated on training images, and the split has none")
    order = np.random.default_rng(CALIBRATION_SEED).permutation(len(train))[:images]
    return train.select(train.samples[place].name for place in sorted(order.tolist()))


def calibration_batches(
    chosen: Dataset, preprocess: Preprocess, progress: Progress | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield images as the model takes them, uint8 [N, H, W, 3], one batch in memory at a time.

    Raises:
        InputError: an image is unusable.
    """
    for start in range(0, len(chosen), CALIBRATION_BATCH):
        samples = chosen.samples[start : start + CALIBRATION_BATCH]
        yield prepare_batch([sample.read() for sample in samples], preprocess)
        if progress is not None:
            progress(start + len(samples), len(chosen))


def _is_named_by(run: RunFolder, dataset: Dataset) -> bool:
    """Say whether the training's lists name any of these images."""
    lists = [run.path / name for name in (TRAIN_CSV, VALIDATION_CSV)]
    if not all(path.is_file() for path in lists):
        return False
    names = {sample.name for sample in dataset.samples}
    return any(row.name in names for path in lists for row in read_table(path))
