"""Accuracy figures equal a plain reference, and invalid input is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twincar_edge.errors import InputError
from twincar_edge.metrics import (
    expected_calibration_error,
    log_softmax,
    negative_log_likelihood,
    softmax,
    top_k,
    topk_accuracy,
    wilson_interval,
)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 14), st.integers(0, 2**32 - 1))
def test_top_k_accuracy_counts_rows_whose_label_has_fewer_than_k_better_classes(
    rows: int, classes: int, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.permuted(np.tile(np.arange(classes, dtype=np.float32), (rows, 1)), axis=1)  # no ties
    labels = rng.integers(0, classes, rows)
    better = [sum(score > row[label] for score in row) for row, label in zip(logits, labels, strict=True)]
    assert topk_accuracy(logits, labels, k) == pytest.approx(np.mean([count < k for count in better]))


def test_ties_go_to_the_lower_index() -> None:
    assert top_k(np.array([[1, 3, 3, 3, 0]], np.float32), 2).tolist() == [[1, 2]]
    assert top_k(np.zeros((2, 4), np.float32), 9).tolist() == [[0, 1, 2, 3]] * 2
    assert top_k(np.zeros((2, 4), np.float32), 3).dtype == np.int64


@pytest.mark.parametrize(
    ("logits", "labels", "complaint"),
    [
        (np.zeros((0, 3), np.float32), [], "data set is empty"),
        (np.zeros((2, 3), np.float32), [0], "do not match"),
        (np.zeros(3, np.float32), [0, 1, 2], "do not match"),
        (np.zeros((2, 3), np.float32), [0, 3], "label 3 lies outside the model's 3 classes"),
        (np.zeros((2, 3), np.float32), [-1, 0], "label -1 lies outside"),
        (np.array([[0, np.nan]], np.float32), [0], "not finite"),
        (np.array([[0, np.inf]], np.float32), [0], "not finite"),
    ],
)
def test_input_without_a_defined_accuracy_is_refused(logits: np.ndarray, labels: list[int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        topk_accuracy(logits, labels)


def test_k_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="k must be 1 or more"):
        topk_accuracy(np.zeros((1, 3), np.float32), [0], 0)


def test_softmax_sums_to_one_even_for_huge_logits_and_temperature_flattens_it() -> None:
    logits = np.array([[1e30, 0, -1e30], [3, 2, 1], [0, 0, 0]], np.float32)
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert probabilities[0].tolist() == [1, 0, 0]
    assert np.allclose(probabilities[1], np.exp([3, 2, 1]) / np.exp([3, 2, 1]).sum())
    assert softmax(logits, 4.0)[1].max() < probabilities[1].max()
    assert np.allclose(softmax(logits, 4.0)[1], softmax(logits / 4)[1])


def with_confidences(confidences: list[float]) -> np.ndarray:
    """Probabilities of two classes that answer class 0 with these confidences."""
    return np.array([[share, 1 - share] for share in confidences], np.float32)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    assert expected_calibration_error(with_confidences([1.0, 1.0]), [0, 0]) == 0
    assert expected_calibration_error(with_confidences([1.0, 1.0]), [1, 1]) == 1
    assert expected_calibration_error(with_confidences([0.75] * 4), [0, 0, 0, 1]) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(with_confidences([0.9, 0.9]), [0, 1]) == pytest.approx(0.4)


def test_calibration_errors_cancel_within_a_bin_and_add_up_across_bins() -> None:
    probabilities, labels = with_confidences([0.6, 0.8]), [0, 1]  # underconfident by 0.4, overconfident by 0.8
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx((0.8 - 0.4) / 2)
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx((0.8 + 0.4) / 2)


def test_bins_are_weighted_by_their_number_of_answers() -> None:
    assert expected_calibration_error(with_confidences([1.0, 1.0, 1.0, 0.6]), [0, 0, 0, 1]) == pytest.approx(0.6 / 4)


def test_wilson_intervals_equal_published_values_even_if_all_or_none_are_right() -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson_interval(right / count, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(1, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


def test_log_probabilities_do_not_underflow_and_agree_with_softmax() -> None:
    logits = np.array([[0.0, 1.0, -2.0], [0.0, 2000.0, 0.0]], np.float32)
    found = log_softmax(logits, 2.0)
    assert found.dtype == np.float64
    assert np.allclose(np.exp(found), softmax(logits, 2.0))
    assert found[1].tolist() == [-1000.0, 0.0, -1000.0]
    assert negative_log_likelihood(logits, [1, 0]) == pytest.approx((-log_softmax(logits)[[0, 1], [1, 0]]).mean())
