"""The two array types of this package, and helpers for them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
"""float32, any shape."""

Image = NDArray[np.uint8]
"""uint8 [H, W] or [H, W, channels]; colors are BGR."""


def f32(values: ArrayLike) -> Floats:
    """Return the values as a float32 array."""
    return np.asarray(values, np.float32)


def over(place: Image, color: Image, alpha: Image) -> None:
    """Blend a premultiplied color [h, w, C] with coverage `alpha` [h, w] over `place`, in place."""
    keep = cv2.merge([cv2.bitwise_not(alpha)] * place.shape[2])
    place[:] = cv2.add(cv2.multiply(place, keep, scale=1 / 255), color)
