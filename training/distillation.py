"""Learning from a teacher: its answers beside the labels, and its feature maps as hints, on the same random crops.

Answers: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015. Feature maps: Romero et al.,
"FitNets: Hints for thin deep nets", 2015.
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

HINT_REDUCTIONS = (8, 16, 32)  # maps whose sides are these fractions of the input's


@dataclass(frozen=True)
class Teacher:
    """A trained classifier of the student's classes, or of some of them.

    Attributes:
        model: in evaluation mode, without gradients.
        known: the student's outputs whose classes it knows.
        order: which of its outputs each of these is.
        sha256: of its file.
    """

    model: CarClassifier
    known: list[int]
    order: list[int]
    sha256: str


def open_teacher(path: Path, recipe: Recipe, classes: ClassMapping, *, fewer: bool = False) -> tuple[Teacher, Recipe]:
    """Open a teacher, and put its digest into the recipe.

    Args:
        path: its checkpoint.
        recipe: of the student; without a `distillation`, it gets the default one.
        classes: of the student.
        fewer: the teacher may lack some of them, as an old model lacks the new ones.

    Raises:
        InputError: it has other classes, or the recipe states the digest of another file.
        ModelError: the checkpoint cannot be read.
    """
    checkpoint = read_checkpoint(path)
    theirs = tuple(checkpoint.classes)
    odd_ones = set(theirs) - set(classes) if fewer else set(theirs) ^ set(classes)
    if odd_ones:
        odd = min(odd_ones)
        raise InputError(
            f"the teacher {path.name} has other classes than the images: {odd!r} is only in "
            f"{'the images' if odd in set(classes) else 'the teacher'}"
        )
    distillation = recipe.distillation or Distillation()
    if distillation.teacher_sha256 not in ("", checkpoint.sha256):
        raise InputError(
            f"{path} is not the teacher of this recipe: its SHA-256 is {checkpoint.sha256}, "
            f"expected {distillation.teacher_sha256}"
        )
    distillation = distillation.model_copy(update={"teacher_sha256": checkpoint.sha256})
    model = load_model(checkpoint).requires_grad_(False)
    known = [place for place, name in enumerate(classes) if name in set(theirs)]
    teacher = Teacher(model, known, [theirs.index(classes[place]) for place in known], checkpoint.sha256)
    return teacher, recipe.model_copy(update={"distillation": distillation})


class Student(nn.Module):
    """A classifier that also returns its features, projected onto the teacher's channels."""

    def __init__(self, model: CarClassifier, places: list[int], projections: nn.ModuleList) -> None:
        """Take the model, which of its feature maps are projected, and a projection for each and the pooled ones."""
        super().__init__()
        self.model = model
        self.projections = projections
        self._places = places

    def forward(self, batch_nhwc: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits, and the projected maps with the pooled features last, of pixels from 0 to 255."""
        logits, maps, pooled = features(self.model, batch_nhwc)
        chosen = [*(maps[place] for place in self._places), pooled]
        return logits, [project(found) for project, found in zip(self.projections, chosen, strict=True)]


class DistillationLoss:
    """The objective of a student: cross-entropy with labels and teacher, and the distance of their features.

    Attributes:
        network: the model, or a `Student` around it where the recipe has hints.
        own: the projections of the hints.
    """

    def __init__(
        self, model: CarClassifier, teacher: Teacher, recipe: Recipe, device: torch.device, machine: Machine
    ) -> None:
        """Put the teacher on the device, and match its feature maps with the student's where the recipe has hints.

        Raises:
            InputError: there are hints, and the two have no feature maps of the same scale; or the teacher cannot take
                crops of the recipe's sizes.
        """
        assert recipe.distillation is not None, "open_teacher() comes first"
        self._recipe = recipe
        self._distillation = recipe.distillation
        self._teacher = teacher
        self._flips = teacher.model.preprocess.colour != model.preprocess.colour
        self._autocast = partial(
            torch.autocast,
            device.type,
            torch.bfloat16,
            enabled=uses_bf16(machine.precision, device, recipe.crop_size_wh_in(1)),
        )
        self.network: nn.Module = model
        projections = nn.ModuleList()
        self._places: list[int] = []
        if self._distillation.hints:
            own_places, self._places, projections = _match(model, teacher.model)
            self.network = Student(model, own_places, projections)
        self.own: nn.Module = projections
        teacher.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for width, height in {recipe.crop_size_wh_in(epoch + 1) for epoch in range(recipe.epochs)}:
            try:
                self._teach(torch.zeros(1, height, width, 3, device=device))
            except (AssertionError, RuntimeError) as error:  # of architectures that take one size alone
                raise InputError(
                    f"the teacher ({teacher.model.architecture}) takes no crops of {width}x{height} pixels: give "
                    "its own size with ",
                    Parameter("distillation.teacher_size", teacher.model.preprocess.size_wh[0]),
                ) from error
        logger.info("learning from a %s, SHA-256 %s", teacher.model.architecture, teacher.sha256)

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss and the student's logits."""
        chosen = self._distillation
        logits, own = output if chosen.hints else (output, [])
        answers, theirs = self._teach(batch.crops_nhwc)
        wanted = (answers / chosen.temperature).softmax(dim=1)
        from_labels = cross_entropy(logits, batch.targets, label_smoothing=self._recipe.label_smoothing)
        loss = chosen.weight * cross_entropy(logits[:, self._teacher.known], wanted) + (1 - chosen.weight) * from_labels
        if chosen.hints:
            loss = loss + chosen.hints * hint_loss(own, theirs)
        return loss, logits

    @torch.no_grad()
    def _teach(self, crops_nhwc: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the teacher's logits for the classes it knows, and with hints its feature maps, pooled ones last."""
        model, found = self._teacher.model, list[Tensor]()
        crops_nhwc = crops_nhwc.flip(-1) if self._flips else crops_nhwc
        with self._autocast():
            if self._distillation.hints:
                logits, maps, pooled = features(model, crops_nhwc)
                found = [*(maps[place] for place in self._places), pooled]
            else:
                logits = model(crops_nhwc)
        return logits[:, self._teacher.order], found


def hint_loss(own: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Return the mean squared difference of features, each channel of the teacher's at mean 0 and variance 1.

    Args:
        own: the student's, projected: [N, C, H, W] each, or [N, C] where pooled.
        theirs: the teacher's, of other heights and widths perhaps.
    """
    losses = []
    for mine, target in zip(own, theirs, strict=True):
        wanted = adaptive_avg_pool2d(target, (mine.shape[-2], mine.shape[-1])) if target.ndim == 4 else target
        wanted = wanted.float()
        std, mean = torch.std_mean(wanted, dim=[axis for axis in range(wanted.ndim) if axis != 1], keepdim=True)
        losses.append(mse_loss(mine.float(), (wanted - mean) / (std + 1e-3)))
    return torch.stack(losses).mean()


def _match(student: CarClassifier, teacher: CarClassifier) -> tuple[list[int], list[int], nn.ModuleList]:
    """Return which feature maps of both belong together, and projections of the student's and its pooled features."""
    (own, own_pooled), (theirs, their_pooled) = (_by_reduction(model) for model in (student, teacher))
    shared = [reduction for reduction in HINT_REDUCTIONS if reduction in own and reduction in theirs]
    if not shared:
        raise InputError(
            f"{student.architecture} and its teacher {teacher.architecture} have no feature maps of the same scale: "
            "leave hints out with ",
            Parameter("distillation.hints", 0),
        )
    projections: list[nn.Module] = [nn.Conv2d(own[scale][1], theirs[scale][1], 1) for scale in shared]
    projections.append(nn.Linear(own_pooled, their_pooled))
    return [own[scale][0] for scale in shared], [theirs[scale][0] for scale in shared], nn.ModuleList(projections)


def _by_reduction(model: CarClassifier) -> tuple[dict[int, tuple[int, int]], int]:
    """Return, by how many times a feature map is smaller than the input, its place and channels; and those pooled."""
    width, height = model.preprocess.size_wh
    training = model.training
    model.eval()
    with torch.no_grad():
        _, maps, pooled = features(model, torch.zeros(1, height, width, 3, device=model.scale.device))
    model.train(training)
    # Of several maps of one size, the last.
    found = {2 ** round(math.log2(width / each.shape[-1])): (place, each.shape[1]) for place, each in enumerate(maps)}
    return found, pooled.shape[1]
