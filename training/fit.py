"""A training from labelled images and a recipe to the best checkpoint, and all that it leaves behind."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
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
from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import write_text
from twincar_edge.progress import StageProgress
from twincar_edge.training.checkpoint import read_checkpoint, write_checkpoint, write_safetensors, write_state_dict
from twincar_edge.training.data import TrainingImages
from twincar_edge.training.distillation import DistillationLoss, open_teacher
from twincar_edge.training.distributed import Processes, join_processes
from twincar_edge.training.environment import environment, to_json
from twincar_edge.training.evaluation import evaluate
from twincar_edge.training.extension import Extending, ExtensionError, open_extension
from twincar_edge.training.history import EpochMetrics, History
from twincar_edge.training.loop import TrainingLoop
from twincar_edge.training.machine import Machine, choose_device, limited_threads, memory_advice, seeded
from twincar_edge.training.model import CarClassifier, load_model, torch_predict
from twincar_edge.training.optimization import freeze_stages
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.report import write_evaluation, write_gradcam_grid, write_training_plots
from twincar_edge.training.result import TrainingResult
from twincar_edge.training.run_folder import RunFolder
from twincar_edge.training.state import read_state, write_state
from twincar_edge.training.weights import load_weights

logger = logging.getLogger(__name__)

MIN_IMAGES_A_CLASS = 2  # one to learn from, one to hold out


def fit(
    recipe: Recipe,
    dataset: Dataset,
    run_folder: Path,
    *,
    data_options: OpenOptions | None = None,
    weights_file: Path | None = None,
    teacher: Path | None = None,
    extending: Extending | None = None,
    machine: Machine | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    progress: StageProgress | None = None,
) -> TrainingResult:
    """Train a classifier, validating after each epoch and keeping the best.

    Unusable images are left out first (`integrity.csv`), the rest is split by class (`train.csv`, `val.csv`). Stopped
    at any moment, even killed, the folder holds whole files: `best.pt` is the best of the epochs that ended, and
    `resume` goes on after the last of them to the same end. On a CPU the same recipe, images, threads and library
    versions give the same weights. Under torchrun, its processes train the one model together; the first of them
    writes, and calls `on_epoch` and `progress`.

    Args:
        recipe: every choice that decides what comes out.
        dataset: labelled images; a model output for each of its classes.
        run_folder: where the results go; made as needed, and empty unless `overwrite` or `resume`.
        data_options: where the data set was opened, so that later commands can open it again.
        weights_file: pretrained weights, for `recipe.weights = "file"`.
        teacher: checkpoint of a model of the same classes that this one learns from beside the labels, as
            `recipe.distillation` says, or in the default way where that is None.
        extending: the model that gets the classes of `dataset` which it does not know. It is the teacher too, and its
            architecture and preprocessing replace the recipe's.
        machine: device, threads, memory and arithmetic.
        overwrite: replace an earlier training in the same folder.
        resume: go on with the training in the folder, which must be of the same recipe and images.
        on_epoch: called after each epoch, once its files are written.
        progress: called often; the stages are "check", "read", "train", "validate" and "evaluate".

    Raises:
        InputError: the folder is not empty, the data cannot be split or a class has too few images, the device is not
            there or its memory too small, an architecture is not known, there are no weights for it, or the teacher
            is missing, of other classes, or another than the one that the training began with.
        ModelError: the weights or the state do not fit, or the loss has stopped being a finite number.
        ExtensionError: the run is whole, but the old classes have lost more than `extending` allows.
    """
    machine = machine or Machine()
    folder = RunFolder(run_folder)
    processes, device = join_processes(choose_device(machine.device))
    if processes.rank:
        on_epoch = progress = None
    extension, classes = None, dataset.classes
    if extending is None and len(classes) < 2:
        raise InputError(
            f"{dataset.name} has one class, {classes[0]!r}, and a classifier tells two or more apart: open "
            "the folder that has one subfolder for each class"
        )
    if extending is not None:
        if teacher is not None:
            raise InputError("an extended model learns from the old one: give no other ", Parameter("teacher"))
        extension = open_extension(extending.model, dataset)
        recipe, classes, teacher = extension.recipe(recipe), extension.classes, extending.model
    if recipe.distillation is not None and teacher is None:
        raise InputError("the recipe learns from a teacher: name its checkpoint with ", Parameter("teacher"))
    with seeded(recipe.seed), limited_threads(machine.threads), memory_advice(recipe.batch_size):
        model = CarClassifier(recipe.architecture, len(classes), recipe.preprocess, recipe.dropout)
        goes_on = resume and folder.state.exists()
        if not goes_on and extension is None:
            load_weights(model, recipe.weights, weights_file)
        frozen = freeze_stages(model, recipe.freeze_stages)
        objective = None
        if teacher is not None:
            opened, recipe = open_teacher(teacher, recipe, classes, fewer=extension is not None)
            objective = DistillationLoss(model, opened, recipe, device, machine)
        if processes.rank == 0:
            folder.prepare(overwrite=overwrite, resume=resume)
            if not goes_on:
                _prepare_data(recipe, dataset, folder, progress, None if extension is None else extension.added)
                write_text(folder.class_mapping, classes.to_json())
                folder.write_record(recipe, data_options, teacher if extending is None else None, extending)
        processes.wait()
        split = read_split(dataset, folder.path)
        if extension is not None:
            split = Split(extension.relabelled(split.train), extension.relabelled(split.validation))
            if not goes_on:
                extension.start(model, split.train)
        images = TrainingImages(
            split.train,
            recipe.preprocess,
            recipe.crop_size_wh_in(recipe.epochs),
            machine.cache_mb,
            None if progress is None else lambda done, total: progress("read", done, total),
        )
        loop = TrainingLoop(recipe, model, frozen, images, device, machine, processes, progress, objective)
        history = History()
        if goes_on:
            history, state = read_state(folder.state, recipe, split.train.digest())
            loop.load_state_dict(state)
            logger.info("going on after epoch %d of %d", len(history.epochs), recipe.epochs)
        if processes.rank == 0:
            precision = "bf16" if loop.bf16 else "fp32"
            record = environment(device, precision, processes.count, split.train.record())
            write_text(folder.environment, to_json(record))
            logger.info("training on %s, %s", device, precision)
        history = _run_epochs(recipe, split, folder, loop, history, processes, on_epoch)
        if processes.rank == 0:
            _write_results(folder, history, split.validation, recipe.batch_size, progress)
    assert history.best is not None  # a recipe has one epoch or more
    report = None
    if extension is not None and extending is not None and processes.rank == 0:
        model = load_model(read_checkpoint(folder.checkpoint))
        report = extension.check(model, split.validation, extending.max_old_drop)
        write_text(folder.extension, report.to_json())
        logger.info("%s", report.summary())
        if (report.drop or 0.0) > report.max_old_drop:
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
                state_dict=loop.answering.backbone.state_dict(),
                classes=split.train.classes,
                preprocess=recipe.preprocess,
                recipe=recipe.model_dump(mode="json"),
                data=split.train.record(),
                epoch=row.epoch,
                validation_top1=row.validation.top1,
                validation_top5=row.validation.top5,
            )
        write_text(folder.metrics, history.to_csv())
        # The last of an epoch's files: killed before it, the epoch is run again and writes the others anew.
        write_state(folder.state, recipe, split.train.digest(), history, loop.state_dict())
        if on_epoch is not None:
            on_epoch(row)
    return history


def _prepare_data(
    recipe: Recipe,
    dataset: Dataset,
    folder: RunFolder,
    progress: StageProgress | None,
    needed: Iterable[str] | None,
) -> None:
    """Find the usable images, split them, and write down what was found; the `needed` classes must have images."""
    kept, report = check_integrity(
        dataset, None if progress is None else lambda done, total: progress("check", done, total)
    )
    report.write_csv(folder.integrity)
    if report.findings:
        logger.warning("%d of %d images are left out, see %s", len(report.findings), report.checked, folder.integrity)
    _check_classes(kept, dataset.classes if needed is None else needed)
    split = stratified_split(kept, recipe.validation_share, recipe.seed)
    write_split(split, folder.path)
    logger.info("%d images to train on, %d held out", len(split.train), len(split.validation))


def _check_classes(dataset: Dataset, needed: Iterable[str]) -> None:
    """Make sure that each of the needed classes can be learned and held out.

    Raises:
        InputError: a class has fewer than two usable images; the first such classes are named.
    """
    counts = Counter(dataset.classes[sample.label] for sample in dataset.samples)
    few = [(name, counts[name]) for name in needed if counts[name] < MIN_IMAGES_A_CLASS]
    if few:
        some = ", ".join(f"{name!r} {count}" for name, count in few[:3]) + (", …" if len(few) > 3 else "")
        raise InputError(
            f"{len(few)} of {len(dataset.classes)} classes of {dataset.name} have fewer than {MIN_IMAGES_A_CLASS} "
            f"usable images ({some}): add images, or take these classes out of the class mapping"
        )


def _write_results(
    folder: RunFolder, history: History, validation: Dataset, batch_size: int, progress: StageProgress | None
) -> None:
    """Write weights for other programs, figures and pictures, all of the best epoch as it stands in the folder."""
    checkpoint = read_checkpoint(folder.checkpoint)
    write_state_dict(folder.weights, checkpoint.state_dict)
    write_safetensors(folder.safetensors, **checkpoint.contents())
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
    write_training_plots(history, folder.path)
    write_gradcam_grid(model, validation, evaluation, folder.path)
