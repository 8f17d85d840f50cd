"""Pictures that never change: what OpenCV gives for frames that it cannot convert, and a camera that is frozen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MANY = 25  # pictures in a row
_SAMPLE = 64  # every so many rows are compared first: they differ in nearly every picture of a camera


class Unchanged:
    """Counts pictures in a row that are the same in every byte.

    OpenCV's reader says of a frame flagged as interlaced that it was decoded, and gives the picture before it again, or
    a black one. A sensor has noise, so that no two pictures of a camera that works are the same for long.

    Attributes:
        run: how many pictures in a row are the same, the newest included.
        since_s: when the first of them came.
    """

    def __init__(self) -> None:
        """Begin without a picture."""
        self.run = 0
        self.since_s = 0.0
        self._last_bgr: NDArray[np.uint8] | None = None

    def add(self, image_bgr: NDArray[np.uint8], time_s: float) -> int:
        """Compare a picture, which nobody may change afterwards, with the one before; return `run`."""
        if self._last_bgr is not None and _same(self._last_bgr, image_bgr):
            self.run += 1
        else:
            self.run, self.since_s = 1, time_s
        self._last_bgr = image_bgr
        return self.run


def _same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    return np.array_equal(one[::_SAMPLE], other[::_SAMPLE]) and np.array_equal(one, other)
