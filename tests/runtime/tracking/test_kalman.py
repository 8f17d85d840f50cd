from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from twincar_edge.runtime.tracking.kalman import BoxFilter

START = np.array([100.0, 50.0, 200.0, 110.0])


class Textbook:
    """The same filter in matrix form: eight states, four of them measured."""

    def __init__(self, box: NDArray[np.float64]) -> None:
        self.state, self.covariance = np.concatenate([box, np.zeros(4)]), np.eye(8)

    def predict(self, elapsed_s: float) -> None:
        step, four = elapsed_s * 25, np.eye(4)
        transition = np.block([[four, step * four], [0 * four, four]])
        push = np.vstack([step**2 / 2 * four, step * four])  # the effect of an acceleration on position and velocity
        self.state = transition @ self.state
        self.covariance = transition @ self.covariance @ transition.T + 0.01 * push @ push.T

    def update(self, box: NDArray[np.float64]) -> None:
        measured = np.eye(4, 8)
        gain = self.covariance @ measured.T @ np.linalg.inv(measured @ self.covariance @ measured.T + 0.1 * np.eye(4))
        self.state = self.state + gain @ (box - measured @ self.state)
        self.covariance = (np.eye(8) - gain @ measured) @ self.covariance


def test_the_filter_matches_the_textbook_at_any_frame_rate_and_across_gaps() -> None:
    rng = np.random.default_rng(0)
    ours, textbook = BoxFilter(START), Textbook(START)
    for index in range(200):
        elapsed_s = rng.choice([1e-3, 1 / 30, 1 / 25, 0.2, 2.0])
        ours.predict(elapsed_s)
        textbook.predict(elapsed_s)
        np.testing.assert_allclose(ours.box, textbook.state[:4], rtol=1e-9)
        if rng.random() < 0.7:
            box = START + index * np.array([8.0, 1.0, 9.0, 1.0]) + rng.normal(0, 3, 4)
            ours.update(box)
            textbook.update(box)
            np.testing.assert_allclose(ours.box, textbook.state[:4], rtol=1e-9)


def test_the_position_of_a_steadily_moving_box_is_predicted() -> None:
    box = BoxFilter(START)
    for index in range(1, 40):
        box.predict(0.04)
        box.update(START + 5.0 * index)
    box.predict(0.4)
    assert box.box == pytest.approx(START + 5.0 * 49, abs=0.5)


def test_hits_count_boxes_and_misses_count_predictions_since_the_last() -> None:
    box = BoxFilter(START)
    box.predict(0.04)
    box.predict(0.04)
    assert (box.hits, box.misses) == (1, 2)
    box.update(START)
    assert (box.hits, box.misses) == (2, 0)
