"""Accuracy figures on plain arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twincar_edge.errors import InputError


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return probabilities, float32 [..., classes], from `logits` [..., classes] divided by `temperature`."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True), np.float32)


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the `k` best class indices of each row, best first, int64 [N, min(k, classes)]; ties by lower index."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k].astype(np.int64)


def topk_accuracy(logits: NDArray[np.float32], labels: ArrayLike, k: int = 1) -> float:
    """Return the share of rows whose label is among the `k` best classes, between 0 and 1.

    Args:
        logits: [N, classes], any monotonic score.
        labels: int [N].
        k: how many guesses count; `k` beyond the class count counts all.

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
        raise InputError("accuracy of no images is not defined: the data set is empty")
    outside = truth[(truth < 0) | (truth >= logits.shape[1])]
    if len(outside):
        raise InputError(f"label {int(outside[0])} lies outside the model's {logits.shape[1]} classes")
    if not np.isfinite(logits).all():
        raise InputError("the model returned scores that are not finite")
    return float((top_k(logits, k) == truth[:, None]).any(axis=1).mean())


def expected_calibration_error(probabilities: NDArray[np.float32], labels: ArrayLike, bins: int = 15) -> float:
    """Return by how much, on average, the first answer's probability and its share of right answers differ (0 to 1).

    Answers are sorted into bins of equal width by their probability; each bin counts by its answers. Source: Guo et
    al., "On Calibration of Modern Neural Networks", 2017.

    Args:
        probabilities: [N, classes], N at least 1.
        labels: int [N].
        bins: how many.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(labels)
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=confidence.astype(np.float64) - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
