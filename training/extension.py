"""Class-incremental training: adds classes to a trained model, which stays the teacher for its own classes.

Li and Hoiem, "Learning without forgetting", 2016. The output of a new class is initialized from the mean features of
its images: Qi, Brown and Lowe, "Low-shot learning with imprinted weights", 2018.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from twincar_edge.dataset_logits import dataset_logits, labels_for
from twincar_edge.datasets import Dataset
from twincar_edge.errors import GateError, InputError, ModelError, Parameter, first_fault
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import at_most, topk_accuracy
from twincar_edge.preprocess import prepare_batch
from twincar_edge.records import Record, Settings, Share
from twincar_edge.training.checkpoint import Checkpoint, read_checkpoint
from twincar_edge.training.model import CarClassifier, load_model, torch_predict
from twincar_edge.training.recipe import Recipe

logger = logging.getLogger(__name__)

MAX_OLD_DROP = 1.0  # percentage points
IMPRINTED_IMAGES = 50  # per class; enough for a mean
_BATCH = 32


class ExtensionConfig(Settings):
    """The checkpoint to extend, and how far top-1 on its own classes may drop, in percentage points."""

    model: Path
    max_old_drop: float = Field(default=MAX_OLD_DROP, ge=0, le=100)


class ExtensionReport(Record):
    """Accuracy on held-out images of old and new classes, with all classes as possible answers.

    Shares are from 0 to 1. Top-1 of the old classes is None if the data has no held-out images of them.
    """

    added: tuple[str, ...]
    old_images: int
    old_top1_before: Share | None
    old_top1: Share | None
    new_images: int
    new_top1: Share
    max_old_drop: float

    @property
    def drop(self) -> float | None:
        """Return the drop of top-1 on the old classes in percentage points, or None if it was not measured."""
        if self.old_top1 is None or self.old_top1_before is None:
            return None
        return 100 * (self.old_top1_before - self.old_top1)

    @property
    def passed(self) -> bool:
        """Return whether the drop is within the limit, also if it was not measured."""
        return at_most(self.drop or 0.0, self.max_old_drop)

    def to_json(self) -> str:
        """Return the report as JSON."""
        return self.model_dump_json(indent=2) + "\n"

    def summary(self) -> str:
        """Return the report as one line of text."""
        line = f"{len(self.added)} new classes: top-1 {self.new_top1:.2%} on {self.new_images} held-out images"
        if self.old_top1 is None or self.old_top1_before is None:
            return f"{line}; old classes: not checked, the data has no held-out images of them"
        return f"{line}; old classes: top-1 {self.old_top1:.2%} on {self.old_images}, {self.old_top1_before:.2%} before"


class ExtensionError(GateError):
    """Top-1 on the old classes dropped by more than the limit."""

    def __init__(self, report: ExtensionReport) -> None:
        """Make the message from the report."""
        super().__init__(
            f"top-1 on the old classes dropped by {report.drop:.2f} points, more than the limit of "
            f"{report.max_old_drop:g}: add images of the old classes, lower the learning rate, raise the weight of the "
            "old model's answers (",
            Parameter("distillation.weight"),
            "), or raise the limit with ",
            Parameter("max_old_drop"),
        )


@dataclass(frozen=True)
class Extension:
    """A model and the classes to add to it.

    Attributes:
        checkpoint: the old model.
        classes: the old classes in their order, followed by the new ones.
    """

    checkpoint: Checkpoint
    classes: ClassMapping

    @property
    def added(self) -> tuple[str, ...]:
        """Return the new classes."""
        return self.classes.names[len(self.checkpoint.classes) :]

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the old model's architecture, preprocessing and, if it sets no size, training size.

        Raises:
            InputError: the recipe's sizes do not fit the old model.
        """
        old = self.checkpoint
        own: dict[str, Any] = {"architecture": old.architecture, "preprocess": old.preprocess, "weights": "file"}
        if not recipe.train_size and not recipe.first_train_size:
            own["train_size"] = old.recipe.get("train_size", 0)
        try:
            return Recipe.model_validate(recipe.model_dump() | own)
        except ValidationError as error:
            raise InputError(f"the recipe does not fit the model {old.name}, at {first_fault(error)}") from error

    def relabeled(self, dataset: Dataset) -> Dataset:
        """Return the images with labels of the extended classes, matched by class name in any spelling."""
        labels = labels_for(dataset, self.classes).tolist()
        samples = (replace(sample, label=label) for sample, label in zip(dataset.samples, labels, strict=True))
        return Dataset(dataset.name, self.classes, tuple(samples))

    def initialize(self, model: CarClassifier, train: Dataset) -> None:
        """Copy the old weights into a model, and initialize the new outputs from the features of their images.

        Args:
            model: the model, with an output for each of `classes`.
            train: the training images, with labels of `classes`.

        Raises:
            ModelError: the checkpoint does not fit its architecture, or the last layer is not linear.
        """
        old = load_model(self.checkpoint)
        theirs, ours = _last_linear(old), _last_linear(model)
        count = len(self.checkpoint.classes)
        means = _mean_features(old, theirs, train, range(count, len(self.classes)))
        own = model.backbone.state_dict()
        kept = {name: tensor for name, tensor in old.backbone.state_dict().items() if tensor.shape == own[name].shape}
        model.backbone.load_state_dict(kept, strict=False)
        with torch.no_grad():
            ours.weight[:count], ours.bias[:count] = theirs.weight, theirs.bias
            ours.weight[count:], ours.bias[count:] = _imprinted(theirs, means)

    def check(self, model: CarClassifier, validation: Dataset, max_old_drop: float) -> ExtensionReport:
        """Compare the extended model with the old one on held-out images with labels of `classes`."""
        count = len(self.checkpoint.classes)
        is_old = validation.labels < count
        logits = dataset_logits(torch_predict(model), validation, model.preprocess)
        before = after = None
        if is_old.any():
            of_old = replace(validation, samples=tuple(s for s in validation.samples if s.label < count))
            old = dataset_logits(torch_predict(load_model(self.checkpoint)), of_old, self.checkpoint.preprocess)
            before = topk_accuracy(old, of_old.labels)
            after = topk_accuracy(logits[is_old], of_old.labels)
        return ExtensionReport(
            added=self.added,
            old_images=int(is_old.sum()),
            old_top1_before=before,
            old_top1=after,
            new_images=int((~is_old).sum()),
            new_top1=topk_accuracy(logits[~is_old], validation.labels[~is_old]),
            max_old_drop=max_old_drop,
        )


def open_extension(path: Path, dataset: Dataset) -> Extension:
    """Read a checkpoint, and find the classes of a data set that it lacks.

    Args:
        path: the checkpoint.
        dataset: images of new classes and, optionally, of old ones.

    Raises:
        InputError: the model has all classes of the images already.
        ModelError: the checkpoint cannot be read.
    """
    checkpoint = read_checkpoint(path)
    used = {sample.label for sample in dataset.samples}
    added = [
        dataset.classes[label] for label in sorted(used) if checkpoint.classes.find(dataset.classes[label]) is None
    ]
    if not added:
        raise InputError(f"{path.name} already has all {len(used)} classes of {dataset.name}: add images of new ones")
    if len(added) == len(used):
        logger.warning("no images of the old classes: only distillation on the new images preserves them")
    return Extension(checkpoint, ClassMapping((*checkpoint.classes, *added)))


def _last_linear(model: CarClassifier) -> nn.Linear:
    """Return the layer that computes the logits."""
    layers = [module for module in model.head().modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].out_features != model.classes or layers[-1].bias is None:
        raise ModelError(f"cannot extend {model.architecture}: its last layer is not a linear layer with a bias")
    return layers[-1]


def _mean_features(model: CarClassifier, layer: nn.Linear, train: Dataset, labels: Iterable[int]) -> Tensor:
    """Return the mean input of the last layer for each of `labels`, float32 [classes, D]."""
    found: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach().clone()))
    means = []
    try:
        for label in labels:
            found.clear()
            samples = [sample for sample in train.samples if sample.label == label][:IMPRINTED_IMAGES]
            for start in range(0, len(samples), _BATCH):
                images = [sample.read() for sample in samples[start : start + _BATCH]]
                torch_predict(model)(prepare_batch(images, model.preprocess))
            means.append(torch.cat(found).mean(dim=0))
    finally:
        hook.remove()
    return torch.stack(means)


def _imprinted(layer: nn.Linear, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights and biases of the new outputs.

    A row points from the center of the new classes to the mean of its own class, with the average length of the old
    rows. At the center, each new logit equals the average of the old logits.
    """
    center = means.mean(dim=0)
    weight = nn.functional.normalize(means - center) * layer.weight.norm(dim=1).mean()
    bias = layer(center).mean() - weight @ center
    return weight, bias
