"""Where a model looks: heat maps of what an answer rests on, by Grad-CAM++."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from twincar_edge.errors import require
from twincar_edge.preprocess import Preprocess, placement
from twincar_edge.training.model import CarClassifier, cam_layer


def grad_cam_plus_plus(model: CarClassifier, batch_nhwc: NDArray[np.uint8], labels: ArrayLike) -> NDArray[np.float32]:
    """Return how much each place of some images speaks for a class (Chattopadhyay et al., 2018, arXiv:1710.11063).

    The model is left as it was found, its gradients included, but in evaluation mode; it may be frozen.

    Args:
        model: on any device.
        batch_nhwc: prepared images, uint8 [N, H, W, 3].
        labels: int [N], the output whose evidence each map shows.

    Returns:
        float32 [N, H, W], between 0 and 1 in each map.

    Raises:
        InputError: the architecture is not convolutional.
        MissingExtraError: grad-cam is not installed.
    """
    library = require("pytorch_grad_cam", "train")
    outputs = require("pytorch_grad_cam.utils.model_targets", "train")
    layer = cam_layer(model)
    # Gradients reach the layer from pixels that ask for them, so that no weight has to: an averaged model's are frozen,
    # and a trained one's keep the gradients that they have.
    pixels = torch.from_numpy(batch_nhwc).permute(0, 3, 1, 2).float().requires_grad_()
    targets = [outputs.ClassifierOutputTarget(int(label)) for label in np.asarray(labels)]
    with _frozen(model), torch.enable_grad():
        cam = library.GradCAMPlusPlus(_ChannelsFirst(model), [layer])
        try:
            seen = cam(pixels, targets)
        finally:
            cam.activations_and_grads.release()
    return np.asarray(seen, np.float32)


def to_image_geometry(
    heatmap: NDArray[np.float32], shape: tuple[int, int], preprocess: Preprocess
) -> NDArray[np.float32]:
    """Lay a heat map of the model's input, float32 [height, width], back over the image: float32 [H, W] of `shape`.

    What the model did not see (outside a centre crop) gets 0; what lies on padding (of a letterbox) falls away.
    """
    rows, columns = shape
    place = placement((columns, rows), preprocess)
    (left, top, right, bottom), (x0, y0, x1, y1) = place.image_xyxy, place.input_xyxy
    whole = np.zeros((rows, columns), np.float32)
    part = cv2.resize(heatmap[y0:y1, x0:x1], (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    whole[top:bottom, left:right] = np.clip(part, 0, 1)
    return whole


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
