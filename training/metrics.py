"""Metrics of a classifier on labeled images, computed by scikit-learn where it has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.metrics import expected_calibration_error, negative_log_likelihood, softmax, topk_accuracy


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of a classifier on a data set. Shares are from 0 to 1.

    "Micro" metrics count images: with one label per image, micro precision, recall and F1 all equal `top1`. "Macro"
    metrics average over the classes that have images; "weighted" ones weight the classes by their images.
    `macro_accuracy` is the balanced accuracy, the mean recall of the classes, and equals `macro_recall`. `loss` is the
    cross-entropy in nats, without label smoothing. `kappa` is Cohen's kappa, `mcc` Matthews' correlation coefficient;
    both are from -1 to 1, and 0 if the data set has only one class. `ece` is the expected calibration error of the
    top-1 answer.
    """

    top1: float
    top3: float
    top5: float
    macro_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    kappa: float
    mcc: float
    loss: float
    ece: float


def classification_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> ClassificationMetrics:
    """Return the metrics of `logits`, float32 [N, classes], for `labels`, int64 [N].

    Raises:
        InputError: no images, mismatched shapes, labels out of range, or logits that are not finite.
    """
    from sklearn.metrics import cohen_kappa_score, matthews_corrcoef, precision_recall_fscore_support

    top1, top3, top5 = (topk_accuracy(logits, labels, k) for k in (1, 3, 5))
    guesses = logits.argmax(axis=1)
    present = np.unique(labels)

    def averaged(average: str) -> tuple[float, float, float]:
        found = precision_recall_fscore_support(labels, guesses, labels=present, average=average, zero_division=0)
        return float(found[0]), float(found[1]), float(found[2])

    macro, weighted = averaged("macro"), averaged("weighted")
    single = len(present) == 1  # kappa and MCC are undefined for one class
    return ClassificationMetrics(
        top1=top1,
        top3=top3,
        top5=top5,
        macro_accuracy=macro[1],
        macro_precision=macro[0],
        macro_recall=macro[1],
        macro_f1=macro[2],
        weighted_precision=weighted[0],
        weighted_recall=weighted[1],
        weighted_f1=weighted[2],
        kappa=0.0 if single else float(cohen_kappa_score(labels, guesses)),
        mcc=0.0 if single else float(matthews_corrcoef(labels, guesses)),
        loss=negative_log_likelihood(logits, labels),
        ece=expected_calibration_error(softmax(logits), labels),
    )
