"""The training loop: epochs of batches and optimizer steps, each followed by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError, ModelError, Parameter
from twincar_edge.progress import StageProgress
from twincar_edge.training.augmentation import Mixing, augment, draw_choices, reduced
from twincar_edge.training.camera_view import as_camera
from twincar_edge.training.data import TrainingImages, prefetch, sample_order, split_batches, with_margin
from twincar_edge.training.distributed import Processes, rank_slice
from twincar_edge.training.history import EpochMetrics
from twincar_edge.training.machine import Machine, epoch_seed, uses_bf16
from twincar_edge.training.metrics import classification_metrics
from twincar_edge.training.model import CarClassifier, torch_predict
from twincar_edge.training.objective import Batch, LabelLoss, Objective
from twincar_edge.training.optimization import build_optimizer, train_mode
from twincar_edge.training.recipe import Recipe


def runs_in_bf16(recipe: Recipe, device: torch.device, machine: Machine, processes: Processes) -> bool:
    """Check that a recipe can be trained here, and return whether it computes in bfloat16.

    Raises:
        InputError: the batch size is not divisible by the number of processes, or the precision does not suit the
            device.
    """
    if recipe.batch_size % processes.count:
        raise InputError(
            f"a batch of {recipe.batch_size} cannot be divided evenly among {processes.count} processes: use ",
            Parameter("batch_size", -(-recipe.batch_size // processes.count) * processes.count),
        )
    return uses_bf16(machine.precision, device, recipe.train_size_wh_in(1))


class TrainingLoop:
    """The model, its optimizer, and all other state of a training run that changes from step to step.

    Each epoch has its own seed, so its result depends only on the state before it and on its number: a run resumed from
    `state_dict` ends with the same weights as an uninterrupted one.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: CarClassifier,
        images: TrainingImages,
        device: torch.device,
        machine: Machine,
        processes: Processes,
        progress: StageProgress | None = None,
        objective: Objective | None = None,
    ) -> None:
        """Move the model to its device, and build the optimizer and its schedule.

        Args:
            recipe: the training recipe.
            model: the model with its initial weights, partly frozen by `freeze_stages`.
            images: the training images.
            device: the training device.
            machine: precision, and whether to compile.
            processes: the processes of the run.
            progress: called after each batch; the stages are "train" and "validate".
            objective: computes the loss of a batch; None for the cross-entropy with the labels.

        Raises:
            InputError: as `runs_in_bf16`.
        """
        self.bf16 = runs_in_bf16(recipe, device, machine, processes)
        self.recipe = recipe
        self.device = device
        self.processes = processes
        self.images = images
        self.objective = objective or LabelLoss(model, recipe.label_smoothing)
        self.objective.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self._progress = progress
        self._mixing = Mixing(recipe.augmentation, model.classes)
        self._steps_per_epoch = len(split_batches(images.labels, recipe.batch_size))
        steps = recipe.epochs * self._steps_per_epoch
        self.optimizer, self.schedule = build_optimizer(model, recipe, steps, self.objective.extra)
        wrapped = processes.wrap(self.objective.network)
        self._forward = torch.compile(wrapped) if machine.compile else wrapped

    @property
    def eval_model(self) -> CarClassifier:
        """Return the model to validate and save: the moving average of the weights if there is one."""
        return self.model if self.ema is None else cast("CarClassifier", self.ema.module)

    def run_epoch(self, epoch: int, validation: Dataset) -> EpochMetrics:
        """Train one epoch and validate, where images were held out.

        Raises:
            ModelError: the loss is not finite.
        """
        torch.manual_seed(epoch_seed(self.recipe.seed, epoch))
        start = time.perf_counter()
        loss, top1, images_per_s = self._train(epoch)
        if not math.isfinite(loss):
            raise ModelError(
                f"training diverged: the loss is {loss} in epoch {epoch}; lower the learning rates, for example to ",
                Parameter("learning_rate", self.recipe.learning_rate / 2),
                " and ",
                Parameter("head_learning_rate", self.recipe.head_learning_rate / 2),
            )
        metrics = None
        if len(validation):
            metrics = classification_metrics(self._validate(validation), validation.labels)
            self.schedule.after_epoch(metrics.macro_f1)
        return EpochMetrics(
            epoch=epoch,
            train_loss=loss,
            train_top1=top1,
            validation=metrics,
            train_size=self.recipe.train_size_wh_in(epoch)[0],
            learning_rate=float(self.optimizer.param_groups[-1]["lr"]),
            images_per_s=images_per_s,
            seconds=time.perf_counter() - start,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next epoch depends on: tensors and plain values."""
        return {
            "model": self.model.backbone.state_dict(),
            "ema": None if self.ema is None else self.eval_model.backbone.state_dict(),
            "objective": self.objective.extra.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict`.

        Raises:
            ModelError: the state belongs to another model or optimizer, or is corrupt.
        """
        try:
            self.model.backbone.load_state_dict(state["model"])
            if self.ema is not None:
                self.eval_model.backbone.load_state_dict(state["ema"])
            self.objective.extra.load_state_dict(state.get("objective", {}))  # older releases did not write it
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # all that torch raises here
            raise ModelError(
                "the saved state does not fit the model of its recipe: start over with ", Parameter("overwrite", True)
            ) from error

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the augmented batches of an epoch."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(epoch_seed(recipe.seed, epoch))
        order = sample_order(self.images.labels, recipe.class_balance == "weighted", generator)
        batches = split_batches(order, recipe.batch_size)
        parts = [rank_slice(self.processes, len(batch)) for batch in batches]
        own = [batch[part] for batch, part in zip(batches, parts, strict=True)]
        size_wh, crop_wh = recipe.train_size_wh_in(epoch), recipe.crop_size_wh_in(epoch)
        mixes = epoch <= recipe.epochs * recipe.augmentation.mixed_until
        loaded = prefetch(self.images, own, with_margin(crop_wh), pinned=self.device.type == "cuda")
        for batch, part, (pixels, labels) in zip(batches, parts, loaded, strict=True):
            # Drawn for the whole batch, so that an image's augmentation does not depend on the process that gets it.
            choices = draw_choices(recipe.augmentation, len(batch), crop_wh, generator).part(part)
            crops_nhwc = augment(pixels.to(self.device, non_blocking=True), choices, crop_wh)
            targets = labels.to(self.device, non_blocking=True)
            if mixes:
                crops_nhwc, targets = self._mixing(crops_nhwc, targets)
            images_nhwc = reduced(crops_nhwc, size_wh)
            if choices.camera is not None:
                images_nhwc = as_camera(images_nhwc, choices.camera)
            yield Batch(images_nhwc, crops_nhwc, targets, len(batch))

    def step(self, batch: Batch, number: int) -> Tensor:
        """Take one optimizer step.

        Args:
            batch: the batch to learn from.
            number: the number of the step in the whole run, from 0.

        Returns:
            float32 [2] on the device: the sum of the losses over the images, and the number of right answers.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = self._forward(batch.images_nhwc)
        loss, logits = self.objective.loss(output, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.after_step()
        if self.ema is not None:
            self.ema.update(self.model, number)
        targets = batch.targets
        heaviest = targets if targets.ndim == 1 else targets.argmax(dim=1)
        right = (logits.detach().argmax(dim=1) == heaviest).sum()
        return torch.stack([loss.detach() * len(targets), right])

    def _train(self, epoch: int) -> tuple[float, float, float]:
        """Return the mean loss, the share of right answers, and the throughput in images per second."""
        train_mode(self.model)
        sums = torch.zeros(2, device=self.device)  # of losses, of right answers
        done, images = 0, sum(map(len, split_batches(self.images.labels, self.recipe.batch_size)))
        start = time.perf_counter()
        for number, batch in enumerate(self.batches(epoch)):
            sums += self.step(batch, (epoch - 1) * self._steps_per_epoch + number)
            done += batch.count
            self._report("train", done, images)
        loss, right = (self.processes.total(sums) / images).tolist()  # synchronizes the device before time is taken
        return loss, right, images / (time.perf_counter() - start)

    def _validate(self, validation: Dataset) -> NDArray[np.float32]:
        """Return float32 logits, computed with the preprocessing and precision that an export must match."""
        samples = validation.samples[rank_slice(self.processes, len(validation))]
        own = np.empty((0, self.model.classes), np.float32)
        if samples:
            own = dataset_logits(
                torch_predict(self.eval_model),
                Dataset(validation.name, validation.classes, samples),
                self.recipe.preprocess,
                self.recipe.batch_size,
                lambda done, total: self._report("validate", done, total),
            )
        return self.processes.concatenate(own)

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)
