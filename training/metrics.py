"""The figures of a classifier on labelled images. scikit-learn computes what it knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.metrics import expected_calibration_error, softmax, topk_accuracy


@dataclass(frozen=True)
class ClassificationMetrics:
    """How well a classifier answers. Shares lie between 0 and 1.

    "Micro" figures count images, so for one label an image micro precision, recall and F1 all equal `top1`. "Macro"
    figures average over the classes that the data set has images of, "weighted" ones weigh them by their images.
    `macro_accuracy` is the balanced accuracy, the mean over the classes of the share of their images that is named
    right: `macro_recall` by its other name. `loss` is the cross-entropy in nats, without label smoothing. `kappa` is
    Cohen's, `mcc` Matthews' correlation coefficient, both from -1 to 1, and 0 where the data set has one class only.
    `ece` is the expected calibration error of the first answer.
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
    """Return the figures of `logits`, float32 [N, classes], against `labels`, int64 [N].

    Raises:
        InputError: no images, shapes that do not match, labels outside the classes, or logits that are not finite.
    """
    from scipy.special import log_softmax
    from sklearn.metrics import cohen_kappa_score, matthews_corrcoef, precision_recall_fscore_support

    top1, top3, top5 = (topk_accuracy(logits, labels, k) for k in (1, 3, 5))
    guesses = logits.argmax(axis=1)
    present = np.unique(labels)

    def averaged(average: str) -> tuple[float, float, float]:
        found = precision_recall_fscore_support(labels, guesses, labels=present, average=average, zero_division=0)
        return float(found[0]), float(found[1]), float(found[2])

    macro, weighted = averaged("macro"), averaged("weighted")
    single = len(present) == 1  # agreement beyond chance is not defined for one class
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
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
        loss=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        ece=expected_calibration_error(softmax(logits), labels),
    )
