"""Detects repeated pictures: OpenCV returns them for frames that it cannot convert, and a frozen camera sends them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MANY = 25  # consecutive pictures
_SAMPLE = 64  # compare every nth row first: it differs in nearly every picture of a camera


class Unchanged:
    """Counts consecutive pictures that are byte-identical.

    For a frame flagged as interlaced, OpenCV reports success and returns the previous picture again, or a black one.
    Sensor noise makes successive pictures of a working camera differ.

    Attributes:
        run: the number of consecutive identical pictures, including the newest.
        since_s: the time of the first of them.
    """

    def __init__(self) -> None:
        """Start without a picture."""
        self.run = 0
        self.since_s = 0.0
        self._last_bgr: NDArray[np.uint8] | None = None

    def add(self, image_bgr: NDArray[np.uint8], time_s: float) -> int:
        """Compare a picture with the one before, and return `run`. The picture must not be modified afterwards."""
        if self._last_bgr is not None and _same(self._last_bgr, image_bgr):
            self.run += 1
        else:
            self.run, self.since_s = 1, time_s
        self._last_bgr = image_bgr
        return self.run


def _same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    return np.array_equal(one[::_SAMPLE], other[::_SAMPLE]) and np.array_equal(one, other)
