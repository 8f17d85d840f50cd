"""The training objective: the loss on a batch, which the training loop minimizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from twincar_edge.training.model import CarClassifier


@dataclass(frozen=True)
class Batch:
    """This process's part of the batch of one optimizer step, on the device.

    Attributes:
        images_nhwc: the model's input, float32 [N, H, W, 3] from 0 to 255.
        crops_nhwc: the same crops at the teacher's size (`Recipe.crop_size_wh_in`).
        targets: labels, int64 [N], or label weights, float32 [N, classes].
        count: images in the batch over all processes.
    """

    images_nhwc: Tensor
    crops_nhwc: Tensor
    targets: Tensor
    count: int


class Objective(Protocol):
    """The loss of a training run, with the modules that it needs beyond the model.

    Attributes:
        network: the module that gets `Batch.images_nhwc`: the classifier, or a wrapper that returns more.
        extra: modules that are trained with the model. They are saved for resuming, but not in the checkpoint.
    """

    network: nn.Module
    extra: nn.Module

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scalar loss and the logits, float32 [N, classes], for the network's output on a batch."""


class LabelLoss:
    """Cross-entropy with the labels."""

    def __init__(self, model: CarClassifier, label_smoothing: float) -> None:
        """Take the model, and the share of each target that is spread evenly over all classes."""
        self.network: nn.Module = model
        self.extra: nn.Module = nn.ModuleList()
        self._label_smoothing = label_smoothing

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        return cross_entropy(output, batch.targets, label_smoothing=self._label_smoothing), output
