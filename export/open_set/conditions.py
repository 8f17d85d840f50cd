"""Simulated conditions that data sets lack: parts of a car, night, rain, and a covered lens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset
from twincar_edge.export.open_set.counts import count_known, depth
from twincar_edge.export.open_set.pictures import changed_when_read
from twincar_edge.export.open_set.report import ConditionFigures
from twincar_edge.preprocess import shrink_to
from twincar_edge.runtime.inference.answers import Hierarchy, Prediction

MAX_IMAGES = 300  # known images per condition; the standard error of a share is then at most 3 percentage points
_SEED = 0
_GAMMA = 2.2
_NIGHT_LIGHT = 0.1
_FULL_WELL = 2000  # electrons of a white pixel in daylight, for a small sensor with short exposure
_READ_NOISE = 5.0  # electrons
_RAIN_STREAKS = 120
_Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Condition:
    """A change of an image, uint8 [H, W, 3], possibly random. Without `shows_car`, any name is wrong."""

    name: str
    shows_car: bool
    change: Callable[[_Image, np.random.Generator], _Image]


def _left(image_bgr: _Image, _: np.random.Generator) -> _Image:
    return image_bgr[:, : _half(image_bgr.shape[1])]


def _right(image_bgr: _Image, _: np.random.Generator) -> _Image:
    return image_bgr[:, -_half(image_bgr.shape[1]) :]


def _quarter(image_bgr: _Image, random: np.random.Generator) -> _Image:
    rows, columns = (_half(length) for length in image_bgr.shape[:2])
    top, left = random.integers(0, 2, 2) * (image_bgr.shape[0] - rows, image_bgr.shape[1] - columns)
    return image_bgr[top : top + rows, left : left + columns]


def _half(length: int) -> int:
    return max(1, length // 2)


def dimmed(image_bgr: _Image, share: float, random: np.random.Generator) -> _Image:
    """Reduce the light to `share`, with photon noise and read noise."""
    electrons = random.poisson(to_light(image_bgr) * share * _FULL_WELL)
    return from_light((electrons + random.normal(0, _READ_NOISE, image_bgr.shape)) / _FULL_WELL)


def to_light(image_bgr: _Image) -> NDArray[np.float64]:
    """Return the light behind pixels, uint8 of any shape: float64, 0 to 1, so that twice the light is twice as much."""
    return np.asarray((image_bgr / 255.0) ** _GAMMA, np.float64)


def from_light(light: NDArray[np.float64]) -> _Image:
    """Return the pixels that a camera makes of `light`; what lies outside 0 to 1 is clipped."""
    return _as_image(255 * np.clip(light, 0, 1) ** (1 / _GAMMA))


def _rain(image_bgr: _Image, random: np.random.Generator) -> _Image:
    """Blur the image as through a wet lens, and draw bright, half-transparent streaks."""
    rows, columns = image_bgr.shape[:2]
    side = min(rows, columns)
    wet = cv2.GaussianBlur(image_bgr, (0, 0), max(side / 112, 0.5))
    streaks = np.zeros((rows, columns), np.uint8)
    slant = random.uniform(-0.3, 0.3)
    for left, top, length in zip(
        random.integers(0, columns, _RAIN_STREAKS).tolist(),
        random.integers(-side // 5, rows, _RAIN_STREAKS).tolist(),
        random.uniform(0.08, 0.2, _RAIN_STREAKS).tolist(),
        strict=True,
    ):
        end = (round(left + slant * length * side), round(top + length * side))
        cv2.line(streaks, (left, top), end, 255, max(1, round(side / 150)), cv2.LINE_AA)
    share = 0.5 * cv2.GaussianBlur(streaks, (0, 0), 0.7)[..., None] / 255.0
    return _as_image(wet * (1 - share) + 210 * share)


def _covered(image_bgr: _Image, random: np.random.Generator) -> _Image:
    """Reduce the contrast to a tenth, and blur over half of the image."""
    mean = image_bgr.mean(axis=(0, 1))
    blurred = cv2.GaussianBlur(image_bgr, (0, 0), min(image_bgr.shape[:2]) / 4).astype(np.float64)
    return _as_image(mean / 2 + 0.1 * (blurred - mean) + random.normal(0, 2, image_bgr.shape))


def _noise(image_bgr: _Image, random: np.random.Generator) -> _Image:
    return random.integers(0, 256, image_bgr.shape, np.uint8)


def _as_image(values: NDArray[np.float64]) -> _Image:
    return np.clip(values.round(), 0, 255).astype(np.uint8)


CONDITIONS = (
    Condition("as it is", True, lambda image_bgr, _: image_bgr),
    Condition("left half", True, _left),
    Condition("right half", True, _right),
    Condition("a quarter", True, _quarter),
    Condition("night", True, lambda image_bgr, random: dimmed(image_bgr, _NIGHT_LIGHT, random)),
    Condition("rain", True, _rain),
    Condition("covered lens", False, _covered),
    Condition("noise", False, _noise),
)


def sample_known(known: Dataset) -> Dataset:
    """Return at most `MAX_IMAGES` of the known images; the choice is deterministic."""
    if len(known) <= MAX_IMAGES:
        return known
    chosen = np.random.default_rng(_SEED).permutation(len(known))[:MAX_IMAGES]
    return known.select(known.samples[place].name for place in sorted(chosen.tolist()))


def changed(known: Dataset, condition: Condition, side: int) -> Dataset:
    """Return the images with their shorter side reduced to `side` pixels, then changed; this is deterministic."""
    return changed_when_read(known, lambda sample, random: condition.change(shrink_to(sample.read(), side), random))


def count_condition(
    condition: Condition, answers: list[Prediction], labels: NDArray[np.int64], hierarchy: Hierarchy
) -> ConditionFigures:
    """Count the answers to images under one condition; `labels` are int64 [N], N at least 1."""
    counted = count_known(answers, labels, hierarchy)
    in_full = sum(depth(answer) == "year" for answer in answers) / len(answers)
    right = (1 - counted.unknown) * (counted.right or 0.0) if condition.shows_car else 0.0
    return ConditionFigures(
        name=condition.name,
        shows_car=condition.shows_car,
        images=len(answers),
        full_name=in_full,
        full_name_right=counted.levels["year"].right if condition.shows_car else None,
        right=right,
        wrong=max(0.0, 1 - counted.unknown - right),
        unknown=counted.unknown,
    )
