"""Where a model looks: heat maps of what an answer rests on, by the library `grad-cam`."""

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

# The library's class for each method. Those that run the model hundreds of times for one map are left out.
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
    """Return how much each place of some images speaks for a class, or for one class rather than another.

    The model is left as it was found, its gradients included, but in evaluation mode; it may be frozen.

    Args:
        model: on any device.
        batch_nhwc: prepared images, uint8 [N, H, W, 3].
        labels: int [N], the output whose evidence each map shows.
        against: int [N]; with it, the evidence is for the difference of the two outputs.
        method: one of `METHODS`.

    Returns:
        float32 [N, H, W], between 0 and 1 in each map.

    Raises:
        InputError: there is no such method, or the architecture is not convolutional.
        MissingExtraError: grad-cam is not installed.
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}: {nearest(method, list(METHODS))}")
    library = require("pytorch_grad_cam", "train")
    layer = cam_layer(model)
    # Gradients reach the layer from pixels that ask for them, so that no weight has to: an averaged model's are frozen,
    # and a trained one's keep the gradients that they have.
    pixels = torch.from_numpy(batch_nhwc).permute(0, 3, 1, 2).float().requires_grad_()
    others = [None] * len(batch_nhwc) if against is None else np.asarray(against).tolist()
    targets = [_Target(label, other) for label, other in zip(np.asarray(labels).tolist(), others, strict=True)]
    with _frozen(model), torch.enable_grad():
        cam = getattr(library, METHODS[method])(_ChannelsFirst(model), [layer])
        try:
            seen = cam(pixels, targets)
        finally:
            cam.activations_and_grads.release()
    return np.asarray(seen, np.float32)


@dataclass(frozen=True)
class _Target:
    """What the library takes the gradient of: one logit, or the difference of two."""

    label: int
    against: int | None

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[self.label] if self.against is None else logits[self.label] - logits[self.against]


class _ChannelsFirst(nn.Module):
    """The library takes the map's size from the last two axes of its input."""

    def __init__(self, model: CarClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch_nchw: Tensor) -> Tensor:
        logits: Tensor = self.model(batch_nchw.permute(0, 2, 3, 1))
        return logits

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Keep the gradients, which the library would drop: nothing of its own is added to them."""


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no weight ask for a gradient, for as long as this is open."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
