"""Trains a model from labeled images and a recipe, and writes the run folder with the best checkpoint."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from twincar_edge.datasets import (
    Dataset,
    OpenOptions,
    Split,
    check_integrity,
    read_split,
    stratified_split,
    write_split,
)
from twincar_edge.datasets.split import TRAIN_CSV
from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import write_text
from twincar_edge.memory import freed_memory_kept
from twincar_edge.progress import StageProgress
from twincar_edge.training.checkpoint import read_checkpoint, write_checkpoint, write_safetensors, write_state_dict
from twincar_edge.training.data import TrainingImages
from twincar_edge.training.distillation import DistillationLoss, open_teacher
from twincar_edge.training.distributed import Processes, join_processes
from twincar_edge.training.environment import environment, to_json
from twincar_edge.training.evaluation import evaluate
from twincar_edge.training.extension import ExtensionConfig, ExtensionError, open_extension
from twincar_edge.training.history import EpochMetrics, History
from twincar_edge.training.loop import TrainingLoop, runs_in_bf16
from twincar_edge.training.machine import Machine, choose_device, limited_threads, memory_advice, seeded
from twincar_edge.training.model import CarClassifier, load_model, torch_predict
from twincar_edge.training.optimization import freeze_stages
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.report import write_evaluation, write_gradcam_grid, write_training_plots
from twincar_edge.training.result import TrainingResult
from twincar_edge.training.run_folder import RunFolder
from twincar_edge.training.start import discard_replaced, started
from twincar_edge.training.state import read_state, write_state
from twincar_edge.training.weights import load_weights

logger = logging.getLogger(__name__)

MIN_IMAGES_A_CLASS = 2  # one to learn from, one to hold out, where any are


def fit(
    recipe: Recipe,
    dataset: Dataset,
    run_folder: Path,
    *,
    data_options: OpenOptions | None = None,
    split: Split | None = None,
    weights_file: Path | None = None,
    teacher: Path | None = None,
    extending: ExtensionConfig | None = None,
    machine: Machine | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    progress: StageProgress | None = None,
) -> TrainingResult:
    """Train a classifier and keep the best epoch's checkpoint, or without validation images the last.

    Excludes unusable images (`integrity.csv`) and splits the rest by class (`train.csv`, `val.csv`). With a
    `validation_share` of 0, `val.csv` is empty and no validation metrics are written. Files are written atomically, so
    a run can be stopped or killed at any time: `best.pt` is then the best completed epoch, and `resume` continues after
    the last completed one, with the same final weights. On a CPU, the same recipe, images, threads and library versions
    give the same weights. Under torchrun, all processes train one model; rank 0 writes the files and calls `on_epoch`
    and `progress`.

    Args:
        recipe: every choice that affects the weights.
        dataset: labeled images; the model has an output for each class.
        run_folder: folder for the results; created if missing, and must be empty unless `overwrite` or `resume`.
        data_options: how the data set was opened, recorded so that later commands can open it.
        split: usable images for training and validation; None finds the usable images and splits them by the recipe.
        weights_file: pretrained weights, for `recipe.weights = "file"`.
        teacher: checkpoint with the same classes, for distillation as set in `recipe.distillation`, or its defaults.
        extending: the model to extend by the classes of `dataset` that it lacks. It is also the teacher, and its
            architecture and preprocessing replace the recipe's.
        machine: device, threads, memory and precision.
        overwrite: replace an earlier run in the same folder, once the first epoch of the new one is complete.
        resume: continue the run in the folder, which must have the same recipe and images.
        on_epoch: called after each epoch, once its files are written.
        progress: called after each batch; the stages are "check", "read", "train", "validate" and "evaluate".

    Raises:
        InputError: the folder is not empty, or cannot be replaced, the data cannot be split, a class has too few
            images, the device is missing or out of memory, the architecture is unknown or has no weights, or the
            teacher is missing, has other classes, or is not the one that the run started with.
        ModelError: the weights or the saved state do not fit, or the loss is not finite.
        ExtensionError: the run is complete, but top-1 on the old classes dropped by more than `extending` allows.
    """
    machine = machine or Machine()
    folder = RunFolder(run_folder)
    processes, device = join_processes(choose_device(machine.device))
    if processes.rank:
        on_epoch = progress = None
    extension, classes = None, dataset.classes
    if extending is None and len(classes) < 2:
        raise InputError(
            f"{dataset.name} has only one class, {classes[0]!r}, and a classifier needs at least two: open "
            "the folder that has a subfolder for each class"
        )
    if extending is not None:
        if not recipe.validation_share:
            raise InputError(
                "an extended model is checked on held-out images: use ", Parameter("validation_share", 0.1)
            )
        if teacher is not None:
            raise InputError("the model to extend is its own teacher: leave out ", Parameter("teacher"))
        extension = open_extension(extending.model, dataset)
        recipe, classes, teacher = extension.recipe(recipe), extension.classes, extending.model
    if recipe.distillation is not None and teacher is None:
        raise InputError("the recipe distills from a teacher: give its checkpoint with ", Parameter("teacher"))
    with (
        seeded(recipe.seed),
        limited_threads(machine.threads),
        freed_memory_kept(),
        memory_advice(recipe.batch_size),
        ExitStack() as start,
    ):
        model = CarClassifier(recipe.architecture, len(classes), recipe.preprocess, recipe.dropout)
        resuming = resume and folder.state.exists()
        if not resuming and extension is None:
            load_weights(model, recipe.weights, weights_file)
        freeze_stages(model, recipe.freeze_stages)
        objective = None
        if teacher is not None:
            opened, recipe = open_teacher(teacher, recipe, classes, fewer=extension is not None)
            objective = DistillationLoss(model, opened, recipe, device, machine)
        runs_in_bf16(recipe, device, machine, processes)  # raises before an earlier run is removed
        if processes.rank == 0:
            folder.prepare(overwrite=overwrite, resume=resume, data=data_options, models=(weights_file, teacher))
            if not resuming:
                if split is None and resume and (folder.path / TRAIN_CSV).is_file():
                    split = read_split(dataset, folder.path)  # that of a fold is not by the recipe
                elif split is None:
                    needed = dataset.classes if extension is None else extension.added
                    split = split_usable(recipe, usable_images(dataset, folder, progress), needed)
                if resume:
                    folder.clear()
                else:
                    start.enter_context(started(folder, overwrite=overwrite))
                named = teacher if extending is None else None
                folder.write_record(recipe, data_options, weights_file, named, extending)
                write_split(split, folder.path)
                logger.info("%d training images, %d held out for validation", len(split.train), len(split.validation))
                write_text(folder.class_mapping, classes.to_json())
            else:
                folder.clear()
        processes.wait()
        split = read_split(dataset, folder.path)
        if extension is not None:
            split = Split(extension.relabeled(split.train), extension.relabeled(split.validation))
            if not resuming:
                extension.initialize(model, split.train)
        images = TrainingImages(
            split.train,
            recipe.preprocess,
            recipe.crop_size_wh_in(recipe.epochs),
            machine.cache_mb,
            None if progress is None else lambda done, total: progress("read", done, total),
        )
        loop = TrainingLoop(recipe, model, images, device, machine, processes, progress, objective)
        history = History()
        if resuming:
            history, state = read_state(folder.state, recipe, split.train.digest())
            loop.load_state_dict(state)
            logger.info("resuming after epoch %d of %d", len(history.epochs), recipe.epochs)
        if processes.rank == 0:
            precision = "bf16" if loop.bf16 else "fp32"
            record = environment(device, precision, processes.count, split.train.record())
            write_text(folder.environment, to_json(record))
            logger.info("training on %s, %s", device, precision)
        history = _run_epochs(recipe, split, folder, loop, history, processes, on_epoch)
        if processes.rank == 0:
            _write_results(folder, history, split.validation, recipe.batch_size, progress)
    assert history.best is not None  # a recipe has at least one epoch
    report = None
    if extension is not None and extending is not None and processes.rank == 0:
        model = load_model(read_checkpoint(folder.checkpoint))
        report = extension.check(model, split.validation, extending.max_old_drop)
        write_text(folder.extension, report.to_json())
        logger.info("%s", report.summary())
        if not report.passed:
            raise ExtensionError(report)
    return TrainingResult(run_folder, folder.checkpoint, history.epochs, history.best, report)


def _run_epochs(
    recipe: Recipe,
    split: Split,
    folder: RunFolder,
    loop: TrainingLoop,
    history: History,
    processes: Processes,
    on_epoch: Callable[[EpochMetrics], None] | None,
) -> History:
    while not history.ended(recipe):
        row = loop.run_epoch(history.next_epoch, split.validation)
        history = history.with_epoch(row)
        if processes.rank:
            continue
        if history.best is row:
            write_checkpoint(
                folder.checkpoint,
                architecture=recipe.architecture,
                state_dict=loop.eval_model.backbone.state_dict(),
                classes=split.train.classes,
                preprocess=recipe.preprocess,
                recipe=recipe.model_dump(mode="json"),
                data=split.train.record(),
                epoch=row.epoch,
                validation_top1=None if row.validation is None else row.validation.top1,
                validation_top5=None if row.validation is None else row.validation.top5,
            )
        write_text(folder.metrics, history.to_csv())
        # The state comes last: if the run is killed before, the epoch is repeated and writes all its files again.
        write_state(folder.state, recipe, split.train.digest(), history, loop.state_dict())
        discard_replaced(folder)
        if on_epoch is not None:
            on_epoch(row)
    return history


def usable_images(dataset: Dataset, folder: RunFolder, progress: StageProgress | None) -> Dataset:
    """Return the usable images, and list the others in `integrity.csv`.

    Raises:
        InputError: the file cannot be written.
    """
    kept, report = check_integrity(
        dataset, None if progress is None else lambda done, total: progress("check", done, total)
    )
    report.write_csv(folder.integrity)
    if report.findings:
        logger.warning(
            "excluded %d of %d images as unusable, see %s", len(report.findings), report.checked, folder.integrity
        )
    return kept


def split_usable(recipe: Recipe, kept: Dataset, needed: Iterable[str]) -> Split:
    """Split usable images by the recipe; each of the `needed` classes must have enough."""
    if not recipe.validation_share:
        check_classes(kept, needed, 1)
        return Split(kept, kept.select(()))
    check_classes(kept, needed)
    return stratified_split(kept, recipe.validation_share, recipe.seed)


def check_classes(dataset: Dataset, needed: Iterable[str], fewest: int = MIN_IMAGES_A_CLASS) -> None:
    """Check that each needed class has images for training and, if any are held out, for validation.

    Raises:
        InputError: a class has too few usable images; the message names the first such classes.
    """
    counts = Counter(dataset.classes[sample.label] for sample in dataset.samples)
    few = [(name, counts[name]) for name in needed if counts[name] < fewest]
    if few:
        some = ", ".join(f"{name!r} {count}" for name, count in few[:3]) + (", …" if len(few) > 3 else "")
        raise InputError(
            f"{len(few)} of {len(dataset.classes)} classes of {dataset.name} have fewer than {fewest} "
            f"usable images ({some}): add images, or remove these classes from the class mapping"
        )


def _write_results(
    folder: RunFolder, history: History, validation: Dataset, batch_size: int, progress: StageProgress | None
) -> None:
    """Write weights for other programs, metrics and plots, all from the best epoch's checkpoint in the folder."""
    checkpoint = read_checkpoint(folder.checkpoint)
    write_state_dict(folder.weights, checkpoint.state_dict)
    write_safetensors(folder.safetensors, **checkpoint.contents())
    write_training_plots(history, folder.path)
    if len(validation) == 0:
        return
    model = load_model(checkpoint)
    evaluation = evaluate(
        torch_predict(model),
        validation,
        checkpoint.classes,
        checkpoint.preprocess,
        batch_size,
        None if progress is None else lambda done, total: progress("evaluate", done, total),
    )
    write_evaluation(evaluation, folder.path)
    write_gradcam_grid(model, validation, evaluation, folder.path)
