"""Scores of a heat map: deletion and insertion curves, and the pointing game, in numpy.

Sources: deletion and insertion (Petsiuk et al., 2018, arXiv:1806.07421), the pointing game (Zhang et al., 2016,
arXiv:1608.00507).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

STEPS = 10  # per curve
TOLERANCE = 0.05  # margin around a part, relative to the longer side of the image
_BLUR = 1 / 16  # sigma relative to the longer side; removes all details of a car

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]


class Curves(NamedTuple):
    """The class's probability as pixels are deleted and inserted, the hottest first: float64 [STEPS + 1] each."""

    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]


class Pointing(NamedTuple):
    """Whether the hottest pixel is on the part or near it, and the share of the heat on the part."""

    on: bool
    near: bool
    heat: float


def blurred(image: Images) -> Images:
    """Return an image, uint8 [H, W, 3], without its details."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _BLUR * max(image.shape[:2])), np.uint8)


def curves(image: Images, heat: Floats, probabilities: Callable[[Images], NDArray[np.float64]]) -> Curves:
    """Return the curves of blurring and restoring an image in steps of equal area, the hottest pixels first.

    Args:
        image: the model's input, uint8 [H, W, 3].
        heat: float32 [H, W]; pixels of equal heat are in a random order, which is the same on each call.
        probabilities: the class's probabilities, float64 [N], for inputs uint8 [N, H, W, 3].
    """
    ties = np.random.default_rng(0).random(heat.size)
    ranks = np.empty(heat.size, np.int64)
    ranks[np.lexsort((ties, -heat.ravel()))] = np.arange(heat.size)
    without = blurred(image)
    first = [(ranks < heat.size * step // STEPS).reshape(*heat.shape, 1) for step in range(STEPS + 1)]
    deleted = probabilities(np.stack([np.where(mask, without, image) for mask in first]))
    inserted = probabilities(np.stack([np.where(mask, image, without) for mask in first[1:-1]]))
    return Curves(deleted, np.concatenate([deleted[-1:], inserted, deleted[:1]]))


def area(curve: NDArray[np.float64]) -> float:
    """Return the area under a curve over the share of pixels, from 0 to 1."""
    return float((curve[:-1] + curve[1:]).mean() / 2)


def pointing(heat: Floats, part: NDArray[np.bool_]) -> Pointing:
    """Score a map, float32 [H, W], by the pointing game with a part, bool [H, W]. Negative heat counts as 0."""
    reach = 2 * round(TOLERANCE * max(part.shape)) + 1
    near = cv2.dilate(part.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))) > 0
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    positive = np.maximum(heat, 0)
    share = float(positive[part].sum() / max(float(positive.sum()), 1e-9))
    return Pointing(bool(part[hottest]), bool(near[hottest]), min(1.0, share))
