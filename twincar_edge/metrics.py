"""Accuracy metrics on plain arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twincar_edge.errors import InputError

CALIBRATION_BINS = 15  # as in Guo et al.
ROUNDING = 1e-9  # tolerance of limits, because shares such as 0.29 have no exact binary representation
Z_95 = 1.959963984540054  # the normal distribution's 97.5% point: an interval of 95%


def at_most(value: float, limit: float) -> bool:
    """Return whether a share, a percentage or a difference of these meets an upper limit, also if it equals it."""
    return value <= limit + ROUNDING


def at_least(value: float, limit: float) -> bool:
    """Return whether a share, a percentage or a difference of these meets a lower limit, also if it equals it."""
    return value >= limit - ROUNDING


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return probabilities, float32 [..., classes], from `logits` [..., classes] divided by `temperature`."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True), np.float32)


def log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(sum(exp(values))) over the last axis, [..., 1], without overflow."""
    largest = values.max(axis=-1, keepdims=True)
    return np.asarray(largest + np.log(np.exp(values - largest).sum(axis=-1, keepdims=True)), np.float64)


def log_softmax(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log-probabilities, float64 [..., classes], also of classes whose probability underflows."""
    scaled = np.asarray(logits, np.float64) / temperature
    return scaled - log_sum_exp(scaled)


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the `k` best class indices of each row, best first, int64 [N, min(k, classes)]; ties by lower index."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k].astype(np.int64)


def topk_accuracy(logits: NDArray[np.float32], labels: ArrayLike, k: int = 1) -> float:
    """Return the share of rows whose label is among the `k` best classes, between 0 and 1.

    Args:
        logits: [N, classes], any monotonic score.
        labels: int [N].
        k: number of top classes that count; all classes if it exceeds their number.

    Raises:
        InputError: `k` below 1, no rows, shapes that do not match, a label outside the classes, or scores that
            are not finite.
    """
    if k < 1:
        raise InputError(f"k must be 1 or more, found {k}")
    truth = np.asarray(labels)
    if logits.ndim != 2 or truth.shape != (len(logits),):
        raise InputError(
            f"logits {list(logits.shape)} and labels {list(truth.shape)} do not match [N, classes] and [N]"
        )
    if len(truth) == 0:
        raise InputError("the data set is empty, so there is no accuracy to compute")
    outside = truth[(truth < 0) | (truth >= logits.shape[1])]
    if len(outside):
        raise InputError(f"label {int(outside[0])} lies outside the model's {logits.shape[1]} classes")
    if not np.isfinite(logits).all():
        raise InputError("the model returned scores that are not finite")
    return float((top_k(logits, k) == truth[:, None]).any(axis=1).mean())


def negative_log_likelihood(logits: NDArray[np.float32], labels: ArrayLike, temperature: float = 1.0) -> float:
    """Return the mean of -log(probability of the true class), in nats, with `logits` divided by `temperature`.

    Args:
        logits: [N, classes], finite, N at least 1.
        labels: int [N].
        temperature: above 0.
    """
    return float(-log_softmax(logits, temperature)[np.arange(len(logits)), np.asarray(labels)].mean())


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of a model, in bins of equal width by the probability of the top class.

    Each array has one entry per bin. `images` int64: the number of answers; `probability` and `right` float64: their
    mean probability and the share of right ones, both 0 in an empty bin.
    """

    images: NDArray[np.int64]
    probability: NDArray[np.float64]
    right: NDArray[np.float64]


def reliability(probabilities: NDArray[np.float32], labels: ArrayLike, bins: int = CALIBRATION_BINS) -> Reliability:
    """Sort answers into `bins` by their probability: the reliability diagram of Guo et al., 2017.

    Args:
        probabilities: [N, classes], N at least 1.
        labels: int [N].
        bins: the number of bins.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(labels)
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    images = np.bincount(bin_of, minlength=bins)
    some = np.maximum(images, 1)
    mean_probability = np.bincount(bin_of, weights=confidence.astype(np.float64), minlength=bins) / some
    return Reliability(images, mean_probability, np.bincount(bin_of, weights=right, minlength=bins) / some)


def expected_calibration_error(
    probabilities: NDArray[np.float32], labels: ArrayLike, bins: int = CALIBRATION_BINS
) -> float:
    """Return the mean gap between top-class probability and accuracy (0 to 1).

    Bins have equal width in probability, and are weighted by their number of answers. Source: Guo et
    al., "On Calibration of Modern Neural Networks", 2017.

    Args:
        probabilities: [N, classes], N at least 1.
        labels: int [N].
        bins: the number of bins.
    """
    found = reliability(probabilities, labels, bins)
    return float((found.images * np.abs(found.probability - found.right)).sum() / found.images.sum())


def auroc(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve: the chance that a positive outscores a negative, with ties counted half.

    Args:
        positives: scores, float64 [N], N at least 1.
        negatives: scores, float64 [M], M at least 1.
    """
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    return float(below.mean() / (2 * len(negatives)))


def wilson_interval(share: float, count: float, z: float = Z_95) -> tuple[float, float]:
    """Return a confidence interval for a share.

    Source: E. B. Wilson's score interval, J. Am. Stat. Assoc. 22, 1927.

    Args:
        share: observed share of successes, from 0 to 1.
        count: number of independent trials, above 0; may be fractional.
        z: the normal quantile of the interval's ends; 95% by default.
    """
    center = share + z**2 / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (center - spread) / (1 + z**2 / count)), min(1.0, (center + spread) / (1 + z**2 / count))
