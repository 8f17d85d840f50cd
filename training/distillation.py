"""Knowledge distillation: a student learns from a teacher's outputs and feature maps on the same random crops.

Outputs: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015. Feature maps (hints): Romero et
al., "FitNets: Hints for thin deep nets", 2015.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, mse_loss

from twincar_edge.errors import InputError, Parameter
from twincar_edge.labels import ClassMapping
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.machine import Machine, uses_bf16
from twincar_edge.training.model import CarClassifier, features, load_model
from twincar_edge.training.objective import Batch
from twincar_edge.training.recipe import Distillation, Recipe

logger = logging.getLogger(__name__)

HINT_REDUCTIONS = (8, 16, 32)  # strides of the feature maps that are compared


@dataclass(frozen=True)
class Teacher:
    """A trained classifier of all or some of the student's classes.

    Attributes:
        model: the classifier, in evaluation mode, without gradients.
        known: the student's outputs whose classes the teacher has.
        order: the teacher's output for each of `known`.
        sha256: the digest of its checkpoint file.
    """

    model: CarClassifier
    known: list[int]
    order: list[int]
    sha256: str


def open_teacher(path: Path, recipe: Recipe, classes: ClassMapping, *, fewer: bool = False) -> tuple[Teacher, Recipe]:
    """Load a teacher, and return it with a recipe that contains its digest.

    Args:
        path: the teacher's checkpoint.
        recipe: the student's; if it has no `distillation`, the returned one has the default.
        classes: the student's classes, matched by name in any spelling.
        fewer: the teacher may lack some classes, as an old model lacks new ones.

    Raises:
        InputError: the classes differ, or the recipe has the digest of another file.
        ModelError: the checkpoint cannot be read.
    """
    checkpoint = read_checkpoint(path)
    theirs = checkpoint.classes
    shared = {label: output for label, name in enumerate(classes) if (output := theirs.find(name)) is not None}
    used = set(shared.values())
    only = {name: "the teacher" for output, name in enumerate(theirs) if output not in used}
    if not fewer:
        only |= {name: "the images" for label, name in enumerate(classes) if label not in shared}
    if only:
        odd = min(only)
        raise InputError(
            f"the classes of the teacher {path.name} and of the images differ: {odd!r} is only in {only[odd]}"
        )
    distillation = recipe.distillation or Distillation()
    if distillation.teacher_sha256 not in ("", checkpoint.sha256):
        raise InputError(
            f"{path} is not the teacher of this recipe: its SHA-256 is {checkpoint.sha256}, "
            f"the recipe expects {distillation.teacher_sha256}"
        )
    distillation = distillation.model_copy(update={"teacher_sha256": checkpoint.sha256})
    model = load_model(checkpoint).requires_grad_(False)
    teacher = Teacher(model, list(shared), list(shared.values()), checkpoint.sha256)
    return teacher, recipe.model_copy(update={"distillation": distillation})


class Student(nn.Module):
    """A classifier that also returns its features, projected onto the teacher's channels."""

    def __init__(self, model: CarClassifier, map_indices: list[int], projections: nn.ModuleList) -> None:
        """Wrap a model.

        Args:
            model: the classifier.
            map_indices: the feature maps to project.
            projections: one for each of these maps, and one for the pooled features, which is last.
        """
        super().__init__()
        self.model = model
        self.projections = projections
        self._map_indices = map_indices

    def forward(self, batch_nhwc: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and the projected features, the pooled ones last, for pixels from 0 to 255."""
        logits, maps, pooled = features(self.model, batch_nhwc)
        chosen = [*(maps[index] for index in self._map_indices), pooled]
        return logits, [project(feature) for project, feature in zip(self.projections, chosen, strict=True)]


class DistillationLoss:
    """A student's objective: cross-entropy with labels and teacher, and the distance between their features.

    Attributes:
        network: the model, or a `Student` around it if the recipe has hints.
        extra: the projections of the hints.
    """

    def __init__(
        self, model: CarClassifier, teacher: Teacher, recipe: Recipe, device: torch.device, machine: Machine
    ) -> None:
        """Move the teacher to the device and, if the recipe has hints, match its feature maps with the student's.

        Raises:
            InputError: with hints, the two have no feature maps of the same stride; or the teacher does not accept
                crops of the recipe's sizes.
        """
        assert recipe.distillation is not None, "call open_teacher() first"
        self._recipe = recipe
        self._distillation = recipe.distillation
        self._teacher = teacher
        self._flips = teacher.model.preprocess.color != model.preprocess.color
        self._autocast = partial(
            torch.autocast,
            device.type,
            torch.bfloat16,
            enabled=uses_bf16(machine.precision, device, recipe.crop_size_wh_in(1)),
        )
        self.network: nn.Module = model
        projections = nn.ModuleList()
        self._map_indices: list[int] = []
        if self._distillation.hints:
            student_indices, self._map_indices, projections = _match(model, teacher.model)
            self.network = Student(model, student_indices, projections)
        self.extra: nn.Module = projections
        teacher.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for width, height in {recipe.crop_size_wh_in(epoch + 1) for epoch in range(recipe.epochs)}:
            try:
                self._teach(torch.zeros(1, height, width, 3, device=device))
            except (AssertionError, RuntimeError) as error:  # from architectures of one fixed input size
                raise InputError(
                    f"the teacher ({teacher.model.architecture}) does not accept crops of {width}x{height} pixels: "
                    "set its own input size with ",
                    Parameter("distillation.teacher_size", teacher.model.preprocess.size_wh[0]),
                ) from error
        logger.info("distilling from the teacher %s, SHA-256 %s", teacher.model.architecture, teacher.sha256)

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss and the student's logits."""
        chosen = self._distillation
        logits, student_features = output if chosen.hints else (output, [])
        teacher_logits, teacher_features = self._teach(batch.crops_nhwc)
        soft_targets = (teacher_logits / chosen.temperature).softmax(dim=1)
        teacher_loss = cross_entropy(logits[:, self._teacher.known], soft_targets)
        label_loss = cross_entropy(logits, batch.targets, label_smoothing=self._recipe.label_smoothing)
        loss = chosen.weight * teacher_loss + (1 - chosen.weight) * label_loss
        if chosen.hints:
            loss = loss + chosen.hints * hint_loss(student_features, teacher_features)
        return loss, logits

    @torch.no_grad()
    def _teach(self, crops_nhwc: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the teacher's logits for its classes and, with hints, its features, the pooled ones last."""
        model, found = self._teacher.model, list[Tensor]()
        crops_nhwc = crops_nhwc.flip(-1) if self._flips else crops_nhwc
        with self._autocast():
            if self._distillation.hints:
                logits, maps, pooled = features(model, crops_nhwc)
                found = [*(maps[index] for index in self._map_indices), pooled]
            else:
                logits = model(crops_nhwc)
        return logits[:, self._teacher.order], found


def hint_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return the mean squared difference of features, after normalizing each of the teacher's channels.

    Args:
        student: its projected features, [N, C, H, W] each, or [N, C] if pooled.
        teacher: its features, whose height and width may differ; each channel is scaled to mean 0 and variance 1.
    """
    losses = []
    for feature, target in zip(student, teacher, strict=True):
        resized = adaptive_avg_pool2d(target, (feature.shape[-2], feature.shape[-1])) if target.ndim == 4 else target
        resized = resized.float()
        std, mean = torch.std_mean(resized, dim=[axis for axis in range(resized.ndim) if axis != 1], keepdim=True)
        losses.append(mse_loss(feature.float(), (resized - mean) / (std + 1e-3)))
    return torch.stack(losses).mean()


def _match(student: CarClassifier, teacher: CarClassifier) -> tuple[list[int], list[int], nn.ModuleList]:
    """Return the matching feature maps of student and teacher, and the projections of the student's features."""
    (own, own_pooled), (theirs, their_pooled) = (_by_reduction(model) for model in (student, teacher))
    shared = [reduction for reduction in HINT_REDUCTIONS if reduction in own and reduction in theirs]
    if not shared:
        raise InputError(
            f"{student.architecture} and its teacher {teacher.architecture} have no feature maps of the same scale: "
            "disable hints with ",
            Parameter("distillation.hints", 0),
        )
    projections: list[nn.Module] = [nn.Conv2d(own[scale][1], theirs[scale][1], 1) for scale in shared]
    projections.append(nn.Linear(own_pooled, their_pooled))
    return [own[scale][0] for scale in shared], [theirs[scale][0] for scale in shared], nn.ModuleList(projections)


def _by_reduction(model: CarClassifier) -> tuple[dict[int, tuple[int, int]], int]:
    """Return the index and channels of the feature map of each stride, and the number of pooled features."""
    width, height = model.preprocess.size_wh
    training = model.training
    model.eval()
    with torch.no_grad():
        _, maps, pooled = features(model, torch.zeros(1, height, width, 3, device=model.scale.device))
    model.train(training)
    # The last of several maps of one size wins.
    found = {2 ** round(math.log2(width / each.shape[-1])): (index, each.shape[1]) for index, each in enumerate(maps)}
    return found, pooled.shape[1]
