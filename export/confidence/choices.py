"""Algorithms that choose the temperature and the threshold for "unknown", on plain arrays."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.export.confidence.report import LevelPoint, OperatingPoint
from twincar_edge.metrics import at_most, topk_accuracy
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level
from twincar_edge.runtime.inference.levels import LevelCertainty

# If a model is right on all images, the likelihood increases as the temperature falls to 0. Below 0.2, the float32
# probabilities of unknown cars also reach 1, and no threshold can separate them.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.2, 10.0
STEPS = 100  # thresholds are multiples of 0.01
_BISECTIONS = 50


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature that maximizes the likelihood of the labels (temperature scaling: Guo et al., 2017).

    The negative log likelihood is convex in 1/T, so its slope is bisected. The temperature changes probabilities, not
    answers. It is rounded to three digits, and is 1 if the likelihood does not depend on it, for example if all logits
    are equal. It is `LOWEST_TEMPERATURE` if all images are right (for example a single image), and
    `HIGHEST_TEMPERATURE` if the model only guesses.

    Args:
        logits: float32 [N, classes], of images not used for training.
        labels: int64 [N].

    Raises:
        InputError: there are no images, shapes do not match, a label is outside the classes, or a logit is not finite.
    """
    topk_accuracy(logits, labels)  # validates the arguments
    scores = logits.astype(np.float64)
    true_scores = scores[np.arange(len(labels)), labels]

    def slope(temperature: float) -> float:
        """Return the derivative of the negative log likelihood with respect to 1/T, which decreases with T."""
        weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
        return float(((weights * scores).sum(axis=1) / weights.sum(axis=1) - true_scores).mean())

    if abs(slope(1.0)) < 1e-12:
        return 1.0
    low, high = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
    if slope(LOWEST_TEMPERATURE) <= 0:
        return LOWEST_TEMPERATURE
    if slope(HIGHEST_TEMPERATURE) >= 0:
        return HIGHEST_TEMPERATURE
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if slope(math.exp(middle)) > 0:
            low = middle
        else:
            high = middle
    return float(f"{math.exp((low + high) / 2):.3g}")


def choose_threshold(unknown: Mapping[str, NDArray[np.floating]], false_accept: float, hold: Collection[str]) -> float:
    """Return the lowest threshold at which at most `false_accept` of the images of each set in `hold` get a wrong name.

    The threshold is a multiple of 0.01. As in inference, a probability equal to it gets a name. If too many images have
    probability 1, no threshold is high enough and the result is 1; check the share of wrong names at that threshold.

    Args:
        unknown: the highest threshold at which each image still gets a wrong name, float [N], by set.
        false_accept: a share from 0 to 1.
        hold: the sets that `false_accept` applies to; if empty, the result is 0.

    Raises:
        InputError: a set in `hold` is missing or empty.
    """
    for name in hold:
        if len(unknown.get(name, ())) == 0:
            raise InputError(
                f"no unknown images in the set {name!r}, which limits the threshold: found {sorted(unknown)}"
            )
    for step in range(STEPS):
        if all(at_most(share_named(unknown[name], step / STEPS), false_accept) for name in hold):
            return step / STEPS
    return 1.0


def share_named(best: NDArray[np.floating], threshold: float) -> float:
    """Return the share of images, from 0 to 1, whose probability reaches a threshold.

    Compares in float64, as inference does: 0.9 in float32 is less than 0.9.
    """
    return float((best.astype(np.float64) >= threshold).mean())


@dataclass(frozen=True)
class Certainty:
    """The certainty of one precision's answers.

    Attributes:
        known: of the held-out images, by level.
        masked: of the held-out images with their own classes masked; None if there are too few classes.
        unknown: the highest threshold at which each image still gets a wrong name, float64 [N], by set.
    """

    known: Mapping[Level, LevelCertainty]
    masked: Mapping[Level, LevelCertainty] | None
    unknown: Mapping[str, NDArray[np.floating]]


def operating_point(certainty: Certainty, threshold: float) -> OperatingPoint:
    """Return coverage, accuracy and wrong names at a threshold."""
    masked = certainty.masked
    levels = {
        level: LevelPoint(
            coverage=known.coverage(threshold),
            right=known.accuracy(threshold),
            masked_coverage=None if masked is None else masked[level].coverage(threshold),
            masked_right=None if masked is None else masked[level].accuracy(threshold),
        )
        for level, known in certainty.known.items()
    }
    return OperatingPoint(
        threshold=threshold,
        coverage=levels["year"].coverage,
        named_top1=levels["year"].right,
        levels=levels,
        answered_right=_share_answered_right(certainty.known, threshold),
        unknown_named={name: share_named(wrong, threshold) for name, wrong in certainty.unknown.items()},
    )


def _share_answered_right(levels: Mapping[Level, LevelCertainty], threshold: float) -> float | None:
    """Return the accuracy of the answers that have a name, each at the deepest level that it reaches."""
    reached = np.stack([levels[level].best >= threshold for level in KNOWN_LEVELS])
    right = np.stack([levels[level].right for level in KNOWN_LEVELS])
    named = reached.any(axis=0)
    deepest = reached.argmax(axis=0)
    return float(right[deepest, np.arange(len(deepest))][named].mean()) if named.any() else None
