"""Classification metrics equal manual counts."""

from __future__ import annotations

from dataclasses import asdict
from math import log, sqrt

import numpy as np
import pytest

from twincar_edge.errors import InputError
from twincar_edge.training.metrics import classification_metrics

# Six images of classes 0, 1 and 2. Class 3 has no image and is answered once.
LABELS = np.array([0, 0, 0, 1, 1, 2], np.int64)
PROBABILITIES = np.array(
    [
        [0.70, 0.10, 0.15, 0.05],  # right
        [0.60, 0.20, 0.10, 0.10],  # right
        [0.10, 0.50, 0.20, 0.20],  # wrong: class 1, and class 0 is not in the top 3
        [0.20, 0.50, 0.20, 0.10],  # right
        [0.10, 0.30, 0.20, 0.40],  # wrong: class 3, and class 1 is second
        [0.05, 0.05, 0.80, 0.10],  # right
    ]
)


EXPECTED = {
    "top1": 4 / 6,
    "top3": 5 / 6,
    "top5": 1,
    "macro_precision": (1 + 1 / 2 + 1) / 3,
    "macro_recall": (2 / 3 + 1 / 2 + 1) / 3,
    "macro_accuracy": (2 / 3 + 1 / 2 + 1) / 3,
    "macro_f1": (0.8 + 0.5 + 1) / 3,
    "weighted_precision": (3 * 1 + 2 / 2 + 1) / 6,
    "weighted_recall": 4 / 6,
    "weighted_f1": (3 * 0.8 + 2 * 0.5 + 1) / 6,
    # The counts of answers are 2, 2, 1, 1, those of labels 3, 2, 1, 0: chance agreement is 11 of 36.
    "kappa": (4 / 6 - 11 / 36) / (1 - 11 / 36),
    "mcc": (4 * 6 - 11) / sqrt((36 - 10) * (36 - 14)),
    "loss": -sum(map(log, (0.7, 0.6, 0.1, 0.5, 0.3, 0.8))) / 6,
    # The two answers of 50% are in one bin, and half of them are right: the error of this bin is 0.
    "ece": (0.3 + 0.4 + 0 + 0.4 + 0.2) / 6,
}


def test_every_metric_equals_the_manual_count() -> None:
    metrics = classification_metrics(np.log(PROBABILITIES).astype(np.float32), LABELS)
    assert asdict(metrics) == pytest.approx(EXPECTED, abs=1e-6)


def test_perfect_answers_have_metrics_of_one() -> None:
    metrics = classification_metrics(np.eye(4, dtype=np.float32) * 100, np.arange(4))
    assert set(asdict(metrics).values()) == {0.0, 1.0}
    assert (metrics.loss, metrics.ece) == (0, 0)


@pytest.mark.parametrize("classes", [1, 3])
def test_kappa_and_mcc_are_zero_for_a_single_class(classes: int) -> None:
    logits = np.zeros((5, classes), np.float32)
    logits[:, 0] = 50
    metrics = classification_metrics(logits, np.zeros(5, np.int64))
    assert metrics.top1 == metrics.macro_f1 == metrics.weighted_precision == metrics.macro_accuracy == 1
    assert (metrics.kappa, metrics.mcc) == (0, 0)
    assert metrics.loss == pytest.approx(0)


def test_a_single_class_can_be_answered_wrong() -> None:
    metrics = classification_metrics(np.array([[5, 0], [0, 5]], np.float32), np.zeros(2, np.int64))
    assert (metrics.top1, metrics.macro_precision, metrics.macro_recall) == (0.5, 1, 0.5)
    assert (metrics.kappa, metrics.mcc) == (0, 0)


def test_the_loss_of_a_confident_wrong_answer_is_not_clipped() -> None:
    assert classification_metrics(np.array([[300, 0]], np.float32), np.array([1])).loss == pytest.approx(300)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((0, 3), np.float32), []),
        (np.zeros((2, 3), np.float32), [0, 3]),
        (np.zeros((2, 3), np.float32), [0]),
        (np.array([[np.nan, 0]], np.float32), [0]),
    ],
)
def test_invalid_input_has_no_metrics(logits: np.ndarray, labels: list[int]) -> None:
    with pytest.raises(InputError):
        classification_metrics(logits, np.array(labels, np.int64))
