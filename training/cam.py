"""Class activation maps: the evidence for an answer at each place of the image, computed with `grad-cam`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from twincar_edge.errors import InputError, nearest, require
from twincar_edge.heatmaps import GRAD_CAM, GRAD_CAM_PLUS_PLUS
from twincar_edge.training.model import CarClassifier, cam_layer

# The library's class for each method. Methods that run the model hundreds of times for one map are excluded.
METHODS = {
    GRAD_CAM_PLUS_PLUS: "GradCAMPlusPlus",  # arXiv:1710.11063
    GRAD_CAM: "GradCAM",  # arXiv:1610.02391
    "hires-cam": "HiResCAM",  # arXiv:2011.08891
    "xgrad-cam": "XGradCAM",  # arXiv:2008.02312
    "layer-cam": "LayerCAM",  # doi:10.1109/TIP.2021.3089943
    "eigen-cam": "EigenCAM",  # arXiv:2008.00299
}


def heat_maps(
    model: CarClassifier,
    batch_nhwc: NDArray[np.uint8],
    labels: ArrayLike,
    against: ArrayLike | None = None,
    method: str = GRAD_CAM_PLUS_PLUS,
) -> NDArray[np.float32]:
    """Return the evidence at each place of the images for a class, or for one class against another.

    The model may be frozen. It is in evaluation mode afterwards; its weights and gradients do not change.

    Args:
        model: the classifier, on any device.
        batch_nhwc: prepared images, uint8 [N, H, W, 3].
        labels: int [N], the output that each map explains.
        against: int [N]; if given, each map explains the difference between the two outputs.
        method: one of `METHODS`.

    Returns:
        float32 [N, H, W], from 0 to 1 in each map.

    Raises:
        InputError: unknown method, or the architecture is not convolutional.
        MissingExtraError: grad-cam is not installed.
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}: {nearest(method, list(METHODS))}")
    library = require("pytorch_grad_cam", "train")
    layer = cam_layer(model)
    # The pixels require gradients, so that no weight has to: the weights of an averaged model are frozen, and those of
    # a model in training keep the gradients that they have.
    pixels = torch.from_numpy(batch_nhwc).permute(0, 3, 1, 2).float().requires_grad_()
    others = [None] * len(batch_nhwc) if against is None else np.asarray(against).tolist()
    targets = [_Target(label, other) for label, other in zip(np.asarray(labels).tolist(), others, strict=True)]
    with _frozen(model), torch.enable_grad():
        cam = getattr(library, METHODS[method])(_ChannelsFirst(model), [layer])
        try:
            maps = cam(pixels, targets)
        finally:
            cam.activations_and_grads.release()
    return np.asarray(maps, np.float32)


@dataclass(frozen=True)
class _Target:
    """The scalar that the library differentiates: one logit, or the difference of two."""

    label: int
    against: int | None

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[self.label] if self.against is None else logits[self.label] - logits[self.against]


class _ChannelsFirst(nn.Module):
    """An adapter to NCHW input: the library takes the map's size from the last two axes of its input."""

    def __init__(self, model: CarClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch_nchw: Tensor) -> Tensor:
        logits: Tensor = self.model(batch_nchw.permute(0, 2, 3, 1))
        return logits

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: the library would reset gradients that it does not change."""


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Disable the gradients of all weights inside the block."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
