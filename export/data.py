"""Selects the images for calibration and for validation: those held out in training, wherever possible."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from twincar_edge.dataset_logits import labels_for
from twincar_edge.datasets import (
    Dataset,
    OpenOptions,
    Split,
    check_integrity,
    read_split,
    stratified_folds,
    stratified_split,
)
from twincar_edge.datasets.split import TRAIN_CSV, VALIDATION_CSV
from twincar_edge.datasets.table import read_table
from twincar_edge.errors import InputError, ModelError, Parameter
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import DataRecord
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.progress import Progress
from twincar_edge.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

CALIBRATION_BATCH = 4  # calibration runs without graph optimization and uses much memory; larger batches gain little
CALIBRATION_SEED = 0
VALIDATION_SHARE = 0.1  # of images that are given, where the recipe has no share of its own


class _SplitChoices(BaseModel):
    """The fields of a recipe that determine how `fit` split its images."""

    seed: Annotated[int, Field(ge=0)] = 0
    validation_share: Annotated[float, Field(ge=0, lt=1)] = VALIDATION_SHARE


def open_split(
    model: Path,
    recipe: Mapping[str, Any],
    classes: ClassMapping,
    data: OpenOptions | None,
    trained_on: DataRecord | None = None,
    *,
    learned: bool = False,
) -> Split:
    """Return the images for calibration (`train`) and for validation.

    Without `data`, these are the images of the training run in whose folder the model is. Given images are split as in
    training if the run's lists contain any of them, or the model records the digest of the training images and a split
    by its recipe has it. Others are split with the recipe's share and seed, so every export gets the same split; a
    warning says so if the model may have learned from them, because its run's lists are not next to it.

    A run without validation images needs `data`: all images in it that the model was not trained on are for validation.
    The run's training images are for calibration; without the run's folder, a part of the given images is, or, with
    `learned`, all of them.

    Args:
        model: the checkpoint file, or an export of it.
        recipe: the recipe in the checkpoint.
        classes: the model's classes.
        data: labeled images.
        trained_on: the training images, as far as the checkpoint records them.
        learned: the model was trained on the given images, and another one answers them in its place.

    Raises:
        InputError: there are no images, they do not match the run's lists, the model was trained on all of them, or
            its data set has changed since and its run's lists are not next to it, or it lacks a class of the given
            images; with `learned`, no images are given, or the training held images out.
        ModelError: the recipe cannot be used.
    """
    run = RunFolder(model.parent)
    choices = _choices(model, recipe)
    if learned and choices.validation_share:
        raise InputError(f"the training of {model} held images out: leave out ", Parameter("validation_model"))
    if learned and data is None:
        raise InputError("give the images that the validation model held out with ", Parameter("data"))
    if data is None:
        if not run.recipe.is_file():
            raise InputError(
                f"no images to check parity on: there is no {run.recipe.name} of a training run next to {model}; "
                "give labeled images with ",
                Parameter("data"),
            )
        return run.open_split()
    dataset = data.open()
    if not choices.validation_share:
        others = _usable(dataset, classes) if learned else not_learned_from(model, classes, dataset, trained_on)
        if run.recipe.is_file():
            return Split(run.open_images().train, others)
        if learned:
            return Split(others, others)
        _check_unlisted(model, dataset, trained_on)
        return stratified_split(others, VALIDATION_SHARE, choices.seed)
    found, usable = find_split(model, recipe, classes, dataset, trained_on)
    if found is not None:
        return found
    _check_unlisted(model, dataset, trained_on)
    return stratified_split(usable, choices.validation_share, choices.seed)


def find_split(
    model: Path, recipe: Mapping[str, Any], classes: ClassMapping, dataset: Dataset, trained_on: DataRecord | None
) -> tuple[Split | None, Dataset]:
    """Find the split by which a training that held images out divided these images.

    The lists next to the model have it. Without them, it is split again, as one training or as the folds of a
    cross-validation, and the digest of the training images shows whether that is the same split.

    Args:
        model: the checkpoint's file, or one that was made of it.
        recipe: the recipe in the checkpoint.
        classes: the model's classes.
        dataset: labeled images.
        trained_on: the images that it learned from, as far as that is known.

    Returns:
        The split, or None if none was found; and the usable images.

    Raises:
        InputError: the images do not match the lists, it lacks one of their classes, or it learned from all of them.
        ModelError: the recipe cannot be used.
    """
    run, choices = RunFolder(model.parent), _choices(model, recipe)
    if _is_named_by(run, dataset):
        split = read_split(dataset, run.path)
        return split, replace(dataset, samples=split.train.samples + split.validation.samples)
    usable = _usable(dataset, classes)
    if trained_on is None:
        return None, usable
    if usable.digest() == trained_on.digest:
        raise _learned_from_all(model, dataset)
    return _split_of(usable, choices, trained_on), usable


def _split_of(usable: Dataset, choices: _SplitChoices, trained_on: DataRecord) -> Split | None:
    """Return the split of these images, as one training or as folds, whose training images these are; None without."""
    splits = [stratified_split(usable, choices.validation_share, choices.seed)]
    folds = round(1 / choices.validation_share)
    if choices.validation_share == 1 / folds:
        with contextlib.suppress(InputError):  # too few images for so many folds
            splits += stratified_folds(usable, folds, choices.seed)
    return next((split for split in splits if split.train.digest() == trained_on.digest), None)


def learned_from(model: Path, recipe: Mapping[str, Any], trained_on: DataRecord | None, dataset: Dataset) -> int:
    """Return how many of these images the model is known to have learned from.

    Known means that all of its training images are among them: the digest of names and classes proves it, for all
    images, for those in the list next to the model, or for the part that the recipe trains on. 0 proves nothing.

    Args:
        model: the checkpoint's file, or one that was made of it.
        recipe: the recipe in the checkpoint.
        trained_on: the images that it learned from, as far as that is known.
        dataset: labeled images, which all decode.
    """
    if trained_on is None or len(dataset) < trained_on.images:
        return 0
    parts = [dataset]
    if is_listed(model):
        named = {row.name for row in read_table(model.parent / TRAIN_CSV)}
        parts.append(dataset.select(sample.name for sample in dataset.samples if sample.name in named))
    if any(part.digest() == trained_on.digest for part in parts):
        return trained_on.images
    usable, _ = check_integrity(dataset, decode=False)
    if usable.digest() == trained_on.digest:
        return trained_on.images
    with contextlib.suppress(InputError, ModelError):  # too few images to split, or a recipe of another version
        choices = _choices(model, recipe)
        if choices.validation_share and _split_of(usable, choices, trained_on) is not None:
            return trained_on.images
    return 0


def is_listed(model: Path) -> bool:
    """Return whether the list of the training images is next to the model, so that they are known by name."""
    return (model.parent / TRAIN_CSV).is_file()


def _check_unlisted(model: Path, dataset: Dataset, trained_on: DataRecord | None) -> None:
    """Warn that the model may have learned from images, unless its list is next to it.

    Raises:
        InputError: these are its data set by name, and have changed since.
    """
    if is_listed(model):
        return
    if trained_on is not None and trained_on.name == dataset.name:
        raise InputError(
            f"{dataset.name} has changed since the training of {model}, so the images that the training held "
            "out are unknown: use the checkpoint in its run folder or, if this is another data set, rename its folder"
        )
    logger.warning(
        "%s may have been trained on images of %s: if so, its figures look too good; in its run folder, training "
        "images are recognized",
        model.name,
        dataset.name,
    )


def held_out_none(model: Path, recipe: Mapping[str, Any]) -> bool:
    """Return whether a training held out no images.

    Raises:
        ModelError: the recipe cannot be used.
    """
    return not _choices(model, recipe).validation_share


def not_learned_from(model: Path, classes: ClassMapping, dataset: Dataset, trained_on: DataRecord | None) -> Dataset:
    """Return the usable images that a training without held-out images did not learn from.

    Its list next to the model names the images that it did learn from; without one, the digest shows whether they are
    exactly the same.

    Args:
        model: the checkpoint's file, or one that was made of it.
        classes: its classes.
        dataset: labeled images.
        trained_on: the images that it learned from, as far as that is known.

    Raises:
        InputError: it lacks one of their classes, or learned from all of them.
    """
    usable = _usable(dataset, classes)
    learned: set[str] = set()
    if is_listed(model):
        learned = {row.name for row in read_table(model.parent / TRAIN_CSV)}
    elif trained_on is not None and trained_on.digest == usable.digest():
        learned = {sample.name for sample in usable.samples}
    others = usable.select(sample.name for sample in usable.samples if sample.name not in learned)
    if len(others) == 0:
        raise _learned_from_all(model, dataset)
    return others


def _usable(dataset: Dataset, classes: ClassMapping) -> Dataset:
    labels_for(dataset, classes)  # raises for an unknown class before all images are decoded
    return check_integrity(dataset)[0]


def _learned_from_all(model: Path, dataset: Dataset) -> InputError:
    return InputError(
        f"the training of {model} learned from all of {dataset.name}: give others with ", Parameter("data")
    )


def _choices(model: Path, recipe: Mapping[str, Any]) -> _SplitChoices:
    try:
        return _SplitChoices.model_validate(dict(recipe))
    except ValidationError as error:
        raise ModelError(f"the recipe in {model} has no usable seed or validation_share") from error


def calibration_samples(train: Dataset, images: int) -> Dataset:
    """Return at most `images` training images for calibration; the choice is deterministic.

    Raises:
        InputError: there are no training images.
    """
    if len(train) == 0:
        raise InputError("INT8 calibration needs training images, but the split has none: add images")
    order = np.random.default_rng(CALIBRATION_SEED).permutation(len(train))[:images]
    return train.select(train.samples[place].name for place in sorted(order.tolist()))


def calibration_batches(
    chosen: Dataset, preprocess: Preprocess, progress: Progress | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield preprocessed images, uint8 [N, H, W, 3], with only one batch in memory at a time.

    Raises:
        InputError: an image is unusable.
    """
    for start in range(0, len(chosen), CALIBRATION_BATCH):
        samples = chosen.samples[start : start + CALIBRATION_BATCH]
        yield prepare_batch([sample.read() for sample in samples], preprocess)
        if progress is not None:
            progress(start + len(samples), len(chosen))


def _is_named_by(run: RunFolder, dataset: Dataset) -> bool:
    """Return whether the run's lists contain any of these images."""
    lists = [run.path / name for name in (TRAIN_CSV, VALIDATION_CSV)]
    if not all(path.is_file() for path in lists):
        return False
    names = {sample.name for sample in dataset.samples}
    return any(row.name in names for path in lists for row in read_table(path))
