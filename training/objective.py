"""What a step of the optimizer minimizes: the loss on a batch, as a part that the training loop is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from twincar_edge.training.model import CarClassifier


@dataclass(frozen=True)
class Batch:
    """What one step learns from, on the device; of several processes, this one's part of it.

    Attributes:
        images_nhwc: what the model sees, float32 [N, H, W, 3] from 0 to 255.
        crops_nhwc: the same crops at the size that a teacher sees (`Recipe.crop_size_wh_in`).
        targets: int64 [N] labels, or float32 [N, classes] shares of them.
        count: images of the batch over all processes.
    """

    images_nhwc: Tensor
    crops_nhwc: Tensor
    targets: Tensor
    count: int


class Objective(Protocol):
    """The loss of a training, with what it needs beyond the model.

    Attributes:
        network: what `Batch.images_nhwc` runs through: the classifier, or a module around it that returns more.
        own: the objective's own parameters. They are trained with the model and kept for `--resume`; the checkpoint
            does not have them.
    """

    network: nn.Module
    own: nn.Module

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and the logits, float32 [N, classes], for the network's output on a batch."""


class LabelLoss:
    """Cross-entropy with the labels."""

    def __init__(self, model: CarClassifier, label_smoothing: float) -> None:
        """Take the model, and the share of each target that goes to all classes alike."""
        self.network: nn.Module = model
        self.own: nn.Module = nn.ModuleList()
        self._label_smoothing = label_smoothing

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        return cross_entropy(output, batch.targets, label_smoothing=self._label_smoothing), output
