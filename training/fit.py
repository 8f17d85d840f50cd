"""The training loop: from labelled images and a recipe to the best checkpoint."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from twincar_edge.datasets import Dataset, Split, check_integrity, stratified_split, write_split
from twincar_edge.datasets.options import OpenOptions
from twincar_edge.errors import ModelError
from twincar_edge.files import write_text
from twincar_edge.inference import dataset_logits
from twincar_edge.metrics import topk_accuracy
from twincar_edge.training.checkpoint import write_checkpoint
from twincar_edge.training.data import TrainingImages, training_batches
from twincar_edge.training.machine import Machine, choose_device, epoch_seed, gains_from_bf16, limited_threads, seeded
from twincar_edge.training.model import CarClassifier, torch_predict
from twincar_edge.training.optimization import build_optimizer, freeze_stages, train_mode
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.run_folder import RunFolder
from twincar_edge.training.weights import load_weights

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, images done, images in all): "check", "read", "train", "validate"."""


@dataclass(frozen=True)
class EpochMetrics:
    """One row of `metrics.csv`.

    Losses are cross-entropy in nats: `train_loss` with label smoothing, `val_loss` without. `epoch` counts from 1.
    `top1` and `top5` are shares of the validation images. `learning_rate` is the backbone's at the end of the epoch.
    `images_per_s` counts training images over training time, `seconds` is the whole epoch.
    """

    epoch: int
    train_loss: float
    val_loss: float
    top1: float
    top5: float
    learning_rate: float
    images_per_s: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """What a training gave: its folder, an entry for each epoch, and the best of them, which `checkpoint` holds."""

    run_folder: Path
    checkpoint: Path
    epochs: tuple[EpochMetrics, ...]
    best: EpochMetrics


def fit(
    recipe: Recipe,
    dataset: Dataset,
    run_folder: Path,
    *,
    data_options: OpenOptions | None = None,
    weights_file: Path | None = None,
    machine: Machine | None = None,
    overwrite: bool = False,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a classifier, validating after each epoch and keeping the best.

    Unusable images are left out first (`integrity.csv`), the rest is split by class (`train.csv`, `val.csv`). Stopped
    at any moment, even killed, the folder holds whole files, and `best.pt` is the best of the epochs that ended.
    On a CPU the same recipe, images, threads and library versions give the same weights.

    Args:
        recipe: every choice that decides what comes out.
        dataset: labelled images; a model output for each of its classes.
        run_folder: where the results go; made as needed, and empty unless `overwrite`.
        data_options: where the data set was opened, so that later commands can open it again.
        weights_file: pretrained weights, for `recipe.weights = "file"`.
        machine: device, threads and memory.
        overwrite: replace an earlier training in the same folder.
        on_epoch: called after each epoch, once its files are written.
        progress: called often, for a progress bar.

    Raises:
        InputError: the folder is not empty, the data cannot be split, the device is not there, an architecture is not
            known, or there are no weights for it.
        ModelError: the weights do not fit, or the loss has stopped being a finite number.
    """
    machine = machine or Machine()
    folder = RunFolder(run_folder)
    device = choose_device(machine.device)
    with seeded(recipe.seed), limited_threads(machine.threads):
        model = CarClassifier(recipe.architecture, len(dataset.classes), recipe.preprocess, recipe.dropout)
        load_weights(model, recipe.weights, weights_file)
        frozen = freeze_stages(model, recipe.freeze_stages)
        folder.prepare(overwrite)
        split = _prepare_data(recipe, dataset, folder, data_options, progress)
        images = TrainingImages(
            split.train,
            recipe.preprocess,
            recipe.train_size_wh,
            recipe.augmentation,
            machine.cache_mb,
            None if progress is None else lambda done, total: progress("read", done, total),
        )
        loop = _Loop(recipe, model, frozen, images, device, progress)
        rows: list[EpochMetrics] = []
        best: EpochMetrics | None = None
        for epoch in range(1, recipe.epochs + 1):
            row = loop.run_epoch(epoch, split.validation)
            rows.append(row)
            if best is None or row.top1 >= best.top1:  # of equals the later: it has seen more
                best = row
                write_checkpoint(
                    folder.checkpoint,
                    architecture=recipe.architecture,
                    state_dict=model.backbone.state_dict(),
                    classes=dataset.classes,
                    preprocess=recipe.preprocess,
                    recipe=recipe.model_dump(mode="json"),
                    data=split.train.record(),
                    epoch=epoch,
                    validation_top1=row.top1,
                    validation_top5=row.top5,
                )
            write_text(folder.metrics, _metrics_csv(rows))
            if on_epoch is not None:
                on_epoch(row)
    assert best is not None  # a recipe has one epoch or more
    return TrainingResult(run_folder, folder.checkpoint, tuple(rows), best)


class _Loop:
    """One training: the model, its optimizer, and what an epoch does with them."""

    def __init__(
        self,
        recipe: Recipe,
        model: CarClassifier,
        frozen_norms: list[nn.Module],
        images: TrainingImages,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.progress = progress
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen_norms = frozen_norms
        self.batches = training_batches(images, recipe.batch_size)
        steps = recipe.epochs * len(self.batches)
        self.optimizer, self.schedule = build_optimizer(model, recipe, steps)
        self.bf16 = gains_from_bf16(device)
        logger.info("training on %s, %s", device, "bfloat16" if self.bf16 else "float32")

    def run_epoch(self, epoch: int, validation: Dataset) -> EpochMetrics:
        """Train one epoch and validate."""
        # Each epoch starts from a seed of its own, so that it depends on the weights and its number alone.
        torch.manual_seed(epoch_seed(self.recipe.seed, epoch))
        start = time.perf_counter()
        loss, images_per_s = self._train()
        if not math.isfinite(loss):
            raise ModelError(
                f"the training loss is {loss} in epoch {epoch}: lower --learning-rate and --head-learning-rate"
            )
        val_loss, top1, top5 = self._validate(validation)
        return EpochMetrics(
            epoch=epoch,
            train_loss=loss,
            val_loss=val_loss,
            top1=top1,
            top5=top5,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            images_per_s=images_per_s,
            seconds=time.perf_counter() - start,
        )

    def _train(self) -> tuple[float, float]:
        """Return the mean loss and the images a second."""
        train_mode(self.model, self.frozen_norms)
        total, seen = torch.zeros((), device=self.device), 0
        start = time.perf_counter()
        for batch_nhwc, labels in self.batches:
            total += self._step(batch_nhwc.to(self.device), labels.to(self.device)) * len(labels)
            seen += len(labels)
            self._report("train", seen, len(self.batches) * self.recipe.batch_size)
        mean = float(total) / seen  # float() waits for the device, so the time is all of it
        return mean, seen / (time.perf_counter() - start)

    def _step(self, batch_nhwc: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.model(batch_nhwc)
        loss = cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def _validate(self, validation: Dataset) -> tuple[float, float, float]:
        """Return loss, top-1 and top-5 in float32, through the one preprocessing: what an export will be held to."""
        logits = dataset_logits(
            torch_predict(self.model),
            validation,
            self.recipe.preprocess,
            self.recipe.batch_size,
            lambda done, total: self._report("validate", done, total),
        )
        labels = validation.labels
        loss = cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        return float(loss), topk_accuracy(logits, labels, 1), topk_accuracy(logits, labels, 5)

    def _report(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


def _prepare_data(
    recipe: Recipe, dataset: Dataset, folder: RunFolder, data_options: OpenOptions | None, progress: Progress | None
) -> Split:
    kept, report = check_integrity(
        dataset, None if progress is None else lambda done, total: progress("check", done, total)
    )
    if report.findings:
        logger.warning("%d of %d images are left out, see %s", len(report.findings), report.checked, folder.integrity)
    split = stratified_split(kept, recipe.validation_share, recipe.seed)
    report.write_csv(folder.integrity)
    write_split(split, folder.path)
    write_text(folder.class_mapping, dataset.classes.to_json())
    folder.write_record(recipe, data_options)
    logger.info("%d images to train on, %d held out", len(split.train), len(split.validation))
    return split


def _metrics_csv(rows: list[EpochMetrics]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(EpochMetrics))
    for row in rows:
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in asdict(row).values())
    return text.getvalue()
