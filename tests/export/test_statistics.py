"""The statistics of parity equal published figures, those of scipy, and those computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.special import softmax as scipy_softmax
from scipy.stats import binom

from twincar_edge.export.parity.statistics import cosine, kl_divergence, margins, mcnemar_p, paired_difference_interval


def answers(both: int, subject: int, reference: int, neither: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which answers of the subject and of the reference are right, given the four cells of the paired table."""
    right = np.repeat([True, True, False, False], [both, subject, reference, neither])
    return right, np.repeat([True, False, True, False], [both, subject, reference, neither])


def test_the_paired_interval_equals_the_published_one() -> None:
    # Bentur et al.'s airway data in Fagerland, Lydersen and Laake 2014: 1, 1, 7, 12.
    low, high = paired_difference_interval(*answers(1, 1, 7, 12))
    assert (low, high) == pytest.approx((-0.508, -0.0134), abs=5e-4)


def test_the_paired_interval_equals_bonett_and_prices_formula() -> None:
    low, high = paired_difference_interval(*answers(700, 1, 3, 44))  # 748 images, (1 + 1) and (3 + 1) of 750
    half = 1.959964 * np.sqrt((6 / 750 - (2 / 750) ** 2) / 750)
    assert (low, high) == pytest.approx((-2 / 750 - half, -2 / 750 + half), abs=1e-9)


def test_the_interval_is_not_empty_if_nothing_changed() -> None:
    low, high = paired_difference_interval(*answers(700, 0, 0, 48))
    assert low == -high
    assert 0.003 < high < 0.005  # the rule of three: up to 3 of 748


@pytest.mark.parametrize("changed", [(1, 0), (0, 1)])
def test_the_interval_of_one_image_is_within_minus_one_and_one(changed: tuple[int, int]) -> None:
    low, high = paired_difference_interval(*answers(0, *changed, 0))
    assert -1 <= low < high <= 1


@given(st.integers(0, 300), st.integers(0, 30), st.integers(0, 30), st.integers(0, 300))
def test_swapping_the_sides_negates_the_interval(both: int, subject: int, reference: int, neither: int) -> None:
    if both + subject + reference + neither == 0:
        return
    low, high = paired_difference_interval(*answers(both, subject, reference, neither))
    swapped = paired_difference_interval(*answers(both, reference, subject, neither))
    assert swapped == pytest.approx((-high, -low))
    assert low <= (subject - reference) / (both + subject + reference + neither) <= high


@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (2, 9), (4, 4), (1, 0), (30, 51)])
def test_mcnemar_equals_the_two_sided_binomial_test(gained: int, lost: int) -> None:
    expected = min(1.0, 2 * binom.cdf(min(gained, lost), gained + lost, 0.5))
    assert mcnemar_p(*answers(100, gained, lost, 20)) == pytest.approx(expected)


def test_mcnemar_of_five_losses_and_no_gain_is_a_sixteenth() -> None:
    assert mcnemar_p(*answers(100, 0, 5, 20)) == pytest.approx(2 / 2**5)


def test_mcnemar_is_one_if_nothing_changed() -> None:
    assert mcnemar_p(*answers(10, 0, 0, 3)) == 1.0


def test_cosine_is_one_for_the_same_direction_and_falls_with_the_angle() -> None:
    reference = np.array([[3, 4], [1, 0], [1, 0], [2, 1]], np.float32)
    logits = np.array([[6, 8], [0, 5], [-2, 0], [1, 2]], np.float32)
    assert cosine(logits, reference) == pytest.approx([1, 0, -1, 0.8])


def test_cosine_of_zero_vectors_is_defined() -> None:
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert cosine(zero, one) == [0]
    assert cosine(zero, zero) == [1]


def test_kl_divergence_equals_scipys_relative_entropy(rng: np.random.Generator) -> None:
    reference, logits = rng.normal(0, 3, (2, 20, 7)).astype(np.float32)
    expected = rel_entr(
        scipy_softmax(reference / np.float64(0.5), axis=1), scipy_softmax(logits / np.float64(2), axis=1)
    )
    found = kl_divergence(reference, logits, reference_temperature=0.5, temperature=2)
    assert found == pytest.approx(expected.sum(axis=1), rel=1e-9)


def test_kl_divergence_of_two_coins_by_hand() -> None:
    reference, logits = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    assert kl_divergence(reference, logits) == pytest.approx([0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)])


def test_kl_divergence_is_finite_for_probabilities_that_underflow() -> None:
    reference, logits = np.array([[0, 2000]], np.float32), np.array([[2000, 0]], np.float32)
    assert kl_divergence(reference, logits) == pytest.approx([2000])
    assert kl_divergence(reference, reference) == [0]


def test_margins_are_between_the_two_highest_probabilities() -> None:
    probabilities = np.array([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]], np.float32)
    assert margins(probabilities) == pytest.approx([0.5, 0])
    assert margins(np.ones((2, 1), np.float32)) == pytest.approx([1, 1])
