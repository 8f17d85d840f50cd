"""Cross-validation: one training per fold, each with another part of the images held out. It judges a recipe."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from pydantic import Field

from twincar_edge.datasets import Dataset, OpenOptions, Split, read_split, stratified_folds
from twincar_edge.datasets.split import VALIDATION_CSV
from twincar_edge.datasets.table import read_table
from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import write_text
from twincar_edge.progress import StageProgress
from twincar_edge.records import Record, Share
from twincar_edge.training.distributed import join_processes
from twincar_edge.training.fit import check_classes, fit, usable_images
from twincar_edge.training.history import EpochMetrics
from twincar_edge.training.machine import Machine, choose_device
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.run_folder import RunFolder
from twincar_edge.training.start import discard_replaced, started

logger = logging.getLogger(__name__)

SCHEMA_VERSION: Literal[1] = 1


class EpochFigures(Record):
    """The metrics of an epoch on the images that its fold held out."""

    epoch: int = Field(ge=1)
    top1: Share
    top5: Share
    macro_f1: Share


class FoldFigures(Record):
    """What the training of a fold, counted from 1, reached in its `last` epoch and in its `best`, on `images` images.

    The best epoch was chosen on the same images, so its figures look too good. A training without validation keeps
    the last.
    """

    fold: int = Field(ge=1)
    images: int = Field(ge=1)
    last: EpochFigures
    best: EpochFigures


class Spread(Record):
    """A figure over the folds: its mean, and its standard deviation from fold to fold."""

    mean: Share
    deviation: float = Field(ge=0)


class Spreads(Record):
    """The figures of `EpochFigures` over the folds."""

    top1: Spread
    top5: Spread
    macro_f1: Spread

    @classmethod
    def of(cls, figures: Sequence[EpochFigures]) -> Spreads:
        """Return the spreads of two folds or more."""
        columns = {name: [getattr(one, name) for one in figures] for name in cls.model_fields}
        return cls(
            **{
                name: Spread(mean=statistics.fmean(values), deviation=statistics.stdev(values))
                for name, values in columns.items()
            }
        )


class FoldsReport(Record):
    """A recipe on `images` of a data set, each of which was held out by one of the folds."""

    schema_version: Literal[1] = SCHEMA_VERSION
    dataset: str
    images: int = Field(ge=2)
    folds: tuple[FoldFigures, ...] = Field(min_length=2)
    last: Spreads
    best: Spreads

    def to_json(self) -> str:
        """Return the report as JSON; `FoldsReport.model_validate_json` reads it again."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as a Markdown table."""
        rows = [_COLUMNS, ("---", *("---:",) * (len(_COLUMNS) - 1))]
        for fold in self.folds:
            rows.append((str(fold.fold), str(fold.images), *_epoch(fold.last), *_epoch(fold.best)))
        for title, part in (("mean", "mean"), ("standard deviation", "deviation")):
            last, best = (
                [f"{getattr(spread, part):.2%}" for spread in (side.top1, side.top5, side.macro_f1)]
                for side in (self.last, self.best)
            )
            rows.append((title, "", "", *last, "", *best))
        lines = [f"Cross-validation on {self.images} images of {self.dataset}", ""]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join(
            [*lines, "", "The best epoch was chosen on the same images: its figures look better than they are.", ""]
        )


_COLUMNS = (
    "Fold", "Images", "Last epoch", "Top-1", "Top-5", "Macro F1", "Best epoch", "Top-1", "Top-5", "Macro F1"
)  # fmt: skip


def _epoch(figures: EpochFigures) -> tuple[str, ...]:
    return str(figures.epoch), f"{figures.top1:.2%}", f"{figures.top5:.2%}", f"{figures.macro_f1:.2%}"


def cross_validate(
    recipe: Recipe,
    dataset: Dataset,
    run_folder: Path,
    folds: int,
    *,
    data_options: OpenOptions | None = None,
    weights_file: Path | None = None,
    teacher: Path | None = None,
    machine: Machine | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_fold: Callable[[int], None] | None = None,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    progress: StageProgress | None = None,
) -> FoldsReport:
    """Train once for each fold, and report how well the recipe does on images that were held out.

    Each fold is a run of `fit` in `fold-1`, `fold-2`, … of the folder, on a split by class (`stratified_folds`) and not
    by the recipe. The folder has the report, `folds.json` and `folds.md`. A stopped run continues with `resume`.

    Args:
        recipe: every other choice; its `validation_share` becomes that of a fold.
        dataset: labeled images.
        run_folder: where the results go; made as needed, and empty unless `overwrite` or `resume`.
        folds: how many, 2 or more.
        data_options: as of `fit`, like all that is not listed here.
        weights_file: as of `fit`.
        teacher: a checkpoint, or the folder of another cross-validation with the same folds, whose models did not learn
            from the images that a fold holds out.
        machine: as of `fit`.
        overwrite: replace an earlier run in the same folder, once the first epoch of the first fold is complete.
        resume: as of `fit`.
        on_fold: called with a fold's number, from 1, before it is trained.
        on_epoch: as of `fit`.
        progress: as of `fit`.

    Raises:
        InputError: as `fit`; several processes train together, the teacher's folds are others, or the images have
            changed since the run to resume began.
        ModelError: as `fit`.
    """
    machine = machine or Machine()
    if join_processes(choose_device(machine.device))[0].count > 1:
        raise InputError("the folds of a cross-validation are trained by one process: start it without torchrun")
    recipe = recipe.model_copy(update={"validation_share": 1 / folds})
    folder = RunFolder(run_folder)
    folder.prepare(overwrite=overwrite, resume=resume, data=data_options, models=(weights_file, teacher))
    kept = usable_images(dataset, folder, progress)
    check_classes(kept, dataset.classes)
    splits = stratified_folds(kept, folds, recipe.seed)
    teachers = [_teacher(teacher, number, split) for number, split in enumerate(splits, start=1)]
    if resume:
        for number, split in enumerate(splits, start=1):
            _check_unchanged(dataset, folder.fold(number), split)
    figures = []

    def epoch_completed(row: EpochMetrics) -> None:
        discard_replaced(folder)
        if on_epoch is not None:
            on_epoch(row)

    with ExitStack() as start:
        if resume:
            folder.clear()
        else:
            start.enter_context(started(folder, overwrite=overwrite))
            folder.write_record(recipe, data_options, weights_file, teacher, folds=folds)
        for number, (split, taught_by) in enumerate(zip(splits, teachers, strict=True), start=1):
            if on_fold is not None:
                on_fold(number)
            result = fit(
                recipe,
                dataset,
                folder.fold(number).path,
                data_options=data_options,
                split=split,
                weights_file=weights_file,
                teacher=taught_by,
                machine=machine,
                overwrite=overwrite,
                resume=resume,
                on_epoch=epoch_completed,
                progress=progress,
            )
            last, best = _figures(result.epochs[-1]), _figures(result.best)
            figures.append(FoldFigures(fold=number, images=len(split.validation), last=last, best=best))
    report = FoldsReport(
        dataset=dataset.name,
        images=sum(fold.images for fold in figures),
        folds=tuple(figures),
        last=Spreads.of([fold.last for fold in figures]),
        best=Spreads.of([fold.best for fold in figures]),
    )
    for path, text in zip(folder.folds, (report.to_json(), report.to_markdown()), strict=True):
        write_text(path, text)
    return report


def _teacher(teacher: Path | None, number: int, split: Split) -> Path | None:
    """Return the checkpoint that a fold learns from.

    Raises:
        InputError: the teacher's fold is missing, or holds out other images.
    """
    if teacher is None or not teacher.is_dir():
        if teacher is not None and number == 1:
            logger.warning(
                "%s may have been trained on images that a fold holds out: the figures may look too good", teacher
            )
        return teacher
    fold = RunFolder(teacher).fold(number)
    held_out = {row.name for row in read_table(fold.path / VALIDATION_CSV)}
    if held_out != {sample.name for sample in split.validation.samples}:
        raise InputError(f"{fold.path} and fold {number} hold out different images: train the teacher with these folds")
    return fold.checkpoint


def _check_unchanged(dataset: Dataset, fold: RunFolder, split: Split) -> None:
    """Check that a fold which has begun holds out what it would hold out now, so that no two folds overlap.

    Raises:
        InputError: it does not.
    """
    if not fold.state.exists():
        return  # `fit` begins it again
    begun = read_split(dataset, fold.path)
    if (begun.train.digest(), begun.validation.digest()) != (split.train.digest(), split.validation.digest()):
        raise InputError(
            f"the images of {dataset.name} have changed since {fold.path} began: restore them, or start over with ",
            Parameter("overwrite", True),
        )


def _figures(row: EpochMetrics) -> EpochFigures:
    found = row.validation
    assert found is not None, "a fold holds images out"
    return EpochFigures(epoch=row.epoch, top1=found.top1, top5=found.top5, macro_f1=found.macro_f1)
