from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from twincar_edge.runtime.tracking.assignment import assign

_SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)
_COSTS = st.one_of(
    st.floats(-1e6, 1e6),
    st.sampled_from([-1.0, 0.0, 0.5, 1.0]),  # ties
)


@given(arrays.arrays(np.float64, _SHAPES, elements=_COSTS))
def test_an_assignment_has_the_same_cost_as_scipys(cost: NDArray[np.float64]) -> None:
    pairs = assign(cost)
    rows, columns = zip(*pairs, strict=True)
    assert len(pairs) == len(set(rows)) == len(set(columns)) == min(cost.shape)
    best = cost[linear_sum_assignment(cost)].sum()
    assert cost[list(rows), list(columns)].sum() == pytest.approx(best, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("size", [20, 60])
def test_the_worst_case_for_path_lengths_is_solved(size: int) -> None:
    cost = np.outer(np.arange(size), np.arange(size)).astype(np.float64)  # the optimum is the antidiagonal
    assert sorted(assign(cost)) == [(row, size - 1 - row) for row in range(size)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_an_empty_side_has_no_pairs(shape: tuple[int, int]) -> None:
    assert assign(np.zeros(shape)) == []


def test_the_best_total_cost_wins_over_the_best_single_pair() -> None:
    assert assign(np.array([[1.0, 2.0], [2.0, 9.0]])) == [(0, 1), (1, 0)]
