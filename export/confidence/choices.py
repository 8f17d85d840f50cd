"""The choices behind a model's confidence, on plain arrays: a temperature, and a threshold for "unknown"."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.export.confidence.report import OperatingPoint
from twincar_edge.metrics import softmax, topk_accuracy

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


def choose_threshold(unknown: Mapping[str, NDArray[np.float32]], false_accept: float, hold: Collection[str]) -> float:
    """Return the lowest threshold at which each set to hold has at most `false_accept` of its pictures named.

    The threshold is a whole hundredth, rounded up. As on the box, a probability that equals it is named. Where too many
    pictures have probability 1, nothing holds them, and the threshold is 1: whoever asks must look at what it gives.

    Args:
        unknown: the best probability of each picture, float32 [N], by set.
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


def best_probability(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return the probability of each image's best class, float32 [N], as the box computes it."""
    return np.asarray(softmax(logits, temperature).max(axis=1), np.float32)


def masked_probability(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float
) -> NDArray[np.float32]:
    """Return the best probability, float32 [N], that a model gives without each image's own class.

    The logit of the class is taken out and the others share what it had. No model has to be trained without the class
    for it; but the features did learn the class, so it is an estimate, of the hardest kind of unknown car.

    Args:
        logits: float32 [N, classes], of 2 classes or more.
        labels: int64 [N], each image's own class.
        temperature: divides the logits.
    """
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return best_probability(others, temperature)


def share_named(best: NDArray[np.float32], threshold: float) -> float:
    """Return the share of images, from 0 to 1, whose best probability reaches a threshold.

    The box compares a Python float with the threshold, so float32 is widened here too: 0.9 in float32 lies below 0.9.
    """
    return float((best.astype(np.float64) >= threshold).mean())


@dataclass(frozen=True)
class Certainty:
    """How sure one precision is of each of its answers.

    Attributes:
        best: the best probability of each held-out image, float32 [N].
        right: whether the best class is the true one, bool [N].
        unknown: the best probability of each picture, by set of unknown ones.
    """

    best: NDArray[np.float32]
    right: NDArray[np.bool_]
    unknown: Mapping[str, NDArray[np.float32]]


def operating_point(certainty: Certainty, threshold: float) -> OperatingPoint:
    """Return what a threshold gives."""
    named = certainty.best.astype(np.float64) >= threshold
    return OperatingPoint(
        threshold=threshold,
        coverage=float(named.mean()),
        named_top1=float(certainty.right[named].mean()) if named.any() else None,
        unknown_named={name: share_named(best, threshold) for name, best in certainty.unknown.items()},
    )
