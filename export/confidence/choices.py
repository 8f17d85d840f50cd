"""The choices behind a model's confidence, on plain arrays: a temperature, and a threshold for "unknown"."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.export.confidence.report import LevelPoint, OperatingPoint
from twincar_edge.metrics import topk_accuracy
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level
from twincar_edge.runtime.inference.levels import LevelCertainty

# A model that is right on every image has no best temperature, the lower the better: below 0.2, float32 probabilities
# of unknown cars reach 1 as well, and no threshold tells them apart any more.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.2, 10.0
STEPS = 100  # thresholds are whole hundredths
_HALVINGS = 50
ROUNDING = 1e-9  # 29 of 100 pictures are 0.29, which binary fractions do not hold exactly


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature at which the true classes are likeliest. Source: Guo et al., 2017, "temperature scaling".

    The negative log likelihood is convex in 1/T, so its slope there is bisected; answers do not change, only how sure
    they are. Three digits of it are kept, which is more than images can tell. Where nothing speaks for any temperature,
    as when all logits are equal, it is 1. It stays between `LOWEST_TEMPERATURE`, where it ends up if every image is
    answered right (one image, for example), and `HIGHEST_TEMPERATURE`, where it does if the model only guesses.

    Args:
        logits: float32 [N, classes], of images that were not trained on.
        labels: int64 [N].

    Raises:
        InputError: there are no images, shapes do not match, a label is outside the classes, or a logit is not finite.
    """
    topk_accuracy(logits, labels)  # for what it raises
    scores = logits.astype(np.float64)
    of_truth = scores[np.arange(len(labels)), labels]

    def slope(temperature: float) -> float:
        """Return the derivative of the negative log likelihood with respect to 1/T, which falls as T grows."""
        weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
        return float(((weights * scores).sum(axis=1) / weights.sum(axis=1) - of_truth).mean())

    if abs(slope(1.0)) < 1e-12:
        return 1.0
    low, high = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
    if slope(LOWEST_TEMPERATURE) <= 0:
        return LOWEST_TEMPERATURE
    if slope(HIGHEST_TEMPERATURE) >= 0:
        return HIGHEST_TEMPERATURE
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if slope(math.exp(middle)) > 0:
            low = middle
        else:
            high = middle
    return float(f"{math.exp((low + high) / 2):.3g}")


def choose_threshold(unknown: Mapping[str, NDArray[np.floating]], false_accept: float, hold: Collection[str]) -> float:
    """Return the lowest threshold at which each set to hold has at most `false_accept` of its pictures named.

    The threshold is a whole hundredth, rounded up. As on the box, a probability that equals it is named. Where too many
    pictures have probability 1, nothing holds them, and the threshold is 1: whoever asks must look at what it gives.

    Args:
        unknown: the highest threshold at which each picture still gets a wrong name, float [N], by set.
        false_accept: a share from 0 to 1.
        hold: the sets that count; none gives 0, which names everything.

    Raises:
        InputError: a set to hold is not there or is empty.
    """
    for name in hold:
        if len(unknown.get(name, ())) == 0:
            raise InputError(f"no unknown pictures {name!r} to choose a threshold by: found {sorted(unknown)}")
    for step in range(STEPS):
        if all(share_named(unknown[name], step / STEPS) <= false_accept + ROUNDING for name in hold):
            return step / STEPS
    return 1.0


def share_named(best: NDArray[np.floating], threshold: float) -> float:
    """Return the share of images, from 0 to 1, whose probability reaches a threshold.

    The box compares a Python float with the threshold, so float32 is widened here too: 0.9 in float32 lies below 0.9.
    """
    return float((best.astype(np.float64) >= threshold).mean())


@dataclass(frozen=True)
class Certainty:
    """How sure one precision is of each of its answers.

    Attributes:
        known: of the held-out images, by level.
        masked: of the same without their own classes; None where there are too few classes.
        unknown: the highest threshold at which each picture still gets a wrong name, float64 [N], by set.
    """

    known: Mapping[Level, LevelCertainty]
    masked: Mapping[Level, LevelCertainty] | None
    unknown: Mapping[str, NDArray[np.floating]]


def operating_point(certainty: Certainty, threshold: float) -> OperatingPoint:
    """Return what a threshold gives."""
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
    """Return the share of right answers among those that have a name, each judged at the deepest level it reaches."""
    reached = np.stack([levels[level].best >= threshold for level in KNOWN_LEVELS])
    right = np.stack([levels[level].right for level in KNOWN_LEVELS])
    named = reached.any(axis=0)
    deepest = reached.argmax(axis=0)
    return float(right[deepest, np.arange(len(deepest))][named].mean()) if named.any() else None
