"""Change detection for a fixed camera: a background model with one Gaussian per pixel, on a downscaled picture.

It replaces OpenCV's MOG2: on a gate camera, automatic exposure darkens the whole road when a white car fills the view.
This model is scaled to match each frame's exposure, and MOG2's cannot be scaled. MOG2 also takes about three times as
long and splits a few visits, even with its mask of known foreground: docs/measurements-archive.md has the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.preprocess import thumbnail

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

WORKING_WIDTH = 320  # pixels of the longer side; a car worth classifying covers tens of them


@dataclass(frozen=True)
class BackgroundRules:
    """Parameters of the background model. Gray levels are from 0 to 255, times in seconds.

    `least_difference` and `deviations`: a pixel has changed when it differs from the background by more than both.
    `learning_s`: time constant of learning. `absorb_s`: a change that stands still for this long becomes background:
    short enough that a light that was switched on does not remain a ghost, long enough that a car at a barrier stays
    visible. `scene_share` and `scene_s`: a change of at least this share of the picture is a change of the scene (a
    lamp, a moved camera), and becomes background after this time. `uncovered_s`: how long a change must stand still
    before the model checks whether it is a place that a vehicle left. `uncovered_edges`: how many times stronger the
    outline of such a place must be in the background than in the frame. `shadow_floor`: how dark a shadow can be, as a
    share of the background; a pixel between it and 1 whose color did not change is shadow.
    """

    least_difference: float = 16.0
    deviations: float = 5.0
    learning_s: float = 8.0
    absorb_s: float = 30.0
    scene_share: float = 0.9
    scene_s: float = 2.0
    uncovered_s: float = 0.4
    uncovered_edges: float = 2.0
    shadow_floor: float = 0.6


class Background:
    """Tells, frame by frame, which pixels of a small copy of the picture have changed.

    Call `changed`, decide which changes are vehicles, then call `learn` with the pixels that they cover. The first
    frame becomes the background.
    """

    def __init__(self, rules: BackgroundRules | None = None) -> None:
        """Start without a background."""
        self.rules = rules or BackgroundRules()
        self._time_s = 0.0
        self._frames = 0
        self._shape: tuple[int, ...] = ()
        self._mean: Floats
        self._deviation: Floats
        self._still_s: Floats
        self._current: Floats
        self._previous: Floats

    def changed(self, image_bgr: NDArray[np.uint8], time_s: float) -> Mask:
        """Return which pixels differ from the background and are not shadow: bool [h, w], of the small copy.

        Args:
            image_bgr: uint8 [H, W, 3]; a picture of another size resets the model.
            time_s: the frame's time; learning goes by time, not by frames.
        """
        small = _planes(thumbnail(image_bgr, small_size(image_bgr)))
        if image_bgr.shape != self._shape:
            self._restart(image_bgr.shape, small)
        self._elapsed_s = min(max(time_s - self._time_s, 0.0), 1.0) if self._frames else 0.0
        self._time_s = time_s
        self._previous, self._current = self._current, small
        self._expose(small)
        flat = self._mean.reshape(-1, small.shape[2])
        expected = np.asarray(cv2.threshold(flat, 255.0, 0.0, cv2.THRESH_TRUNC)[1], np.float32).reshape(small.shape)
        self._largest = _largest(map(cv2.absdiff, small, expected))
        changed = self._largest > np.maximum(self.rules.least_difference, self.rules.deviations * self._deviation)
        # By index, not by mask: this is ten times faster in numpy for a few of many pixels.
        places = np.flatnonzero(changed)
        shadow = self._shadow(*(planes.reshape(3, -1).take(places, axis=1) for planes in (small, expected)))
        changed.ravel()[places[shadow]] = False
        return np.asarray(changed, np.bool_)

    def learn(self, vehicles: Mask) -> None:
        """Learn the frame last given to `changed`, except where vehicles stand: bool [h, w], of the small copy."""
        rules = self.rules
        self._frames += 1
        rate = min(1.0, max(self._elapsed_s / rules.learning_s, 1.0 / (self._frames + 1)))
        road = (~vehicles).view(np.uint8)
        for seen, known in zip((*self._current, self._largest), (*self._mean, self._deviation), strict=True):
            cv2.accumulateWeighted(seen, known, rate, road)

        if not vehicles.any():
            self._still_s[:] = 0.0
            return
        moved = _largest(map(cv2.absdiff, self._current, self._previous)) > rules.least_difference
        self._still_s += np.float32(self._elapsed_s)
        self._still_s[moved | ~vehicles] = 0.0
        everywhere = np.count_nonzero(vehicles) > rules.scene_share * vehicles.size
        limit_s = rules.scene_s if everywhere else rules.absorb_s
        self.absorb(self._still_s > limit_s)

    def uncovered(self, mask: Mask) -> bool:
        """Return whether a change, bool [h, w], is a place that a vehicle has left, not one where a vehicle stands.

        A vehicle that was there from the start, or stood long enough to be learned, leaves such a ghost. It stands
        still, and its outline is an edge of the background but not of the frame.
        """
        rules = self.rules
        if not mask.any() or (self._still_s[mask] > rules.uncovered_s).mean() < 0.9:
            return False
        image = mask.astype(np.uint8)
        outline = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        if not outline.any():  # it fills the frame
            return False
        known, seen = (_edges(planes)[outline] for planes in (self._mean, self._current))
        # Edges in both are the road's texture, and not evidence.
        lost, new = np.maximum(known - seen, 0.0).mean(), np.maximum(seen - known, 0.0).mean()
        return bool(lost > rules.uncovered_edges * new)

    def absorb(self, mask: Mask) -> None:
        """Set the background to the frame in this area, bool [h, w]."""
        self._mean[:, mask] = self._current[:, mask]
        self._still_s[mask] = 0.0

    def _restart(self, shape: tuple[int, ...], small: Floats) -> None:
        self._shape = shape
        self._frames = 0
        self._mean = small.copy()
        self._deviation = np.zeros(small.shape[1:], np.float32)
        self._still_s = np.zeros(small.shape[1:], np.float32)
        self._current = small

    def _expose(self, small: Floats) -> None:
        """Match the background to the frame's exposure."""
        overexposed = np.flatnonzero(self._mean >= _OVEREXPOSED)
        self._mean *= _exposure(small, self._mean)
        # The true brightness of an overexposed sky is unknown: it may darken less than the rest, or not at all.
        mean, seen = self._mean.ravel(), small.ravel()
        mean[overexposed] = np.maximum(mean[overexposed], seen[overexposed])

    def _shadow(self, small: Floats, expected: Floats) -> Mask:
        """Return which pixels, float32 [3, N], have the background's color, but darker: bool [N]."""
        ratio = (small + 1.0) / (expected + 1.0)
        lowest, highest = np.minimum.reduce(ratio), np.maximum.reduce(ratio)
        return np.asarray((lowest > self.rules.shadow_floor) & (highest < 1.0) & (highest - lowest < 0.08), np.bool_)


def small_size(image_bgr: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the width and height at which the background model sees a picture: its longer side at most 320 pixels.

    A whole number of pixels becomes one, where the sides allow.
    """
    rows, columns = image_bgr.shape[:2]
    factor = max(1, -(-max(rows, columns) // WORKING_WIDTH))
    return max(1, round(columns / factor)), max(1, round(rows / factor))


def _planes(image_bgr: NDArray[np.uint8]) -> Floats:
    """Return float32 [3, h, w]: numpy takes the maximum over channels ten times faster when they lie apart."""
    return np.stack(cv2.split(image_bgr), dtype=np.float32)


def _largest(channels: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Return the largest of three channels, pixel by pixel: [h, w]."""
    first, second, third = channels
    return np.asarray(cv2.max(cv2.max(first, second), third))


def _edges(planes: Floats) -> Floats:
    """Return how strong a picture's edges are, float32 [3, h, w] to [h, w]: in color, for a red car on a gray road."""
    strengths = [cv2.magnitude(cv2.Sobel(one, cv2.CV_32F, 1, 0), cv2.Sobel(one, cv2.CV_32F, 0, 1)) for one in planes]
    return np.asarray(np.max(strengths, axis=0), np.float32)


_UNDEREXPOSED, _OVEREXPOSED = 12.0, 245.0  # pixels beyond these are not evidence of the exposure
_DOUBLINGS = 4.5  # up or down: no two pixels between those differ by more
_BINS_PER_DOUBLING = 50  # one bin of the exposure ratio's logarithm is 1.4%
_BINS = int(2 * _DOUBLINGS * _BINS_PER_DOUBLING)
_EVERY = 6  # pixels of every such row are enough to know the exposure by
_LEAST_SUPPORT = 0.15  # of the usable pixels
_LEAST_PIXELS = 50


def _exposure(small: Floats, mean: Floats) -> Floats:
    """Return each channel's factor that matches the background to the frame's exposure: float32 [3, 1, 1].

    The most frequent ratio between frame and background, not the mean or median one: the pixels of the road agree on
    one ratio even where a car covers most of the picture, and those of the car do not agree on any.
    """
    seen, known = (planes[:, ::_EVERY, ::_EVERY].reshape(3, -1) for planes in (small, mean))
    usable = np.flatnonzero((np.minimum(seen, known) > _UNDEREXPOSED) & (np.maximum(seen, known) < _OVEREXPOSED))
    ratios = np.log2(seen.take(usable) / known.take(usable))
    # One histogram for each channel, all in one: how many pixels fall into a bin, and what their ratios add up to.
    bins = ((ratios + _DOUBLINGS) * _BINS_PER_DOUBLING).astype(np.intp) + usable // seen.shape[1] * _BINS
    counts = np.bincount(bins, minlength=3 * _BINS).reshape(3, _BINS)
    sums = np.bincount(bins, ratios, minlength=3 * _BINS).reshape(3, _BINS)

    support, pixels = _windows(counts, 5), counts.sum(axis=1)
    peaks = np.arange(3), support.argmax(axis=1)
    # Without agreement, the scene itself has changed, not the exposure.
    agree = (support[peaks] >= _LEAST_SUPPORT * pixels) & (pixels >= _LEAST_PIXELS)
    exponents = _windows(sums, 7)[peaks] / np.maximum(_windows(counts, 7)[peaks], 1.0)
    return np.exp2(np.where(agree, exponents, 0.0)).astype(np.float32).reshape(3, 1, 1)


def _windows(histograms: NDArray[Any], width: int) -> NDArray[np.float64]:
    """Return, for each bin of each row, the sum of the `width` bins around it."""
    return np.asarray(
        cv2.boxFilter(histograms.astype(np.float64), -1, (width, 1), normalize=False, borderType=cv2.BORDER_CONSTANT)
    )
