"""Estimates and predicts a vehicle's box: a constant-velocity Kalman filter (SORT, arXiv:1602.00763).

The state is the four edges of the box and their velocities. All edges are measured with the same noise, and none
depends on another: they share one covariance of position and velocity, which is three numbers. The variances are for
pixels and for steps of 1/25 s. Process noise is white noise acceleration, constant during a step (Bar-Shalom, Li and
Kirubarajan, Estimation with Applications to Tracking and Navigation, 2001, section 6.3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEP_S = 1 / 25
_MEASUREMENT = 0.1  # variance of a measured edge
_ACCELERATION = 0.01
_KNOWN_HITS = 3  # boxes after which the velocity is usable
_DRIVES = 0.5  # of its size per second: below this speed, the direction is unreliable
_BACK = 0.25  # of its size: no vehicle jumps back so far
_START = 1.0  # variance of position and of velocity at the first box


class BoxFilter:
    """The box of one vehicle.

    Attributes:
        box: estimate of its edges, float64 (left, top, right, bottom).
        hits: the number of boxes so far.
        misses: the number of predictions since the last box.
    """

    def __init__(self, box: NDArray[np.float64]) -> None:
        """Start at a measured box, at rest."""
        self.box = self.measured = box
        self.hits, self.misses = 1, 0
        self._velocity = np.zeros(4)
        self._position_variance = self._velocity_variance = _START
        self._covariance = 0.0

    def predict(self, elapsed_s: float) -> None:
        """Move the box to where it should be after `elapsed_s`."""
        step = elapsed_s / _STEP_S
        self.box = self.box + step * self._velocity
        noise = _ACCELERATION * step**2
        spread = step * self._velocity_variance
        self._position_variance += step * (2 * self._covariance + spread) + noise * step**2 / 4
        self._covariance += spread + noise * step / 2
        self._velocity_variance += noise
        self.misses += 1

    def backs_up(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which boxes [N, 4] lie behind the last one in driving direction, so belong to a follower: bool [N].

        Both edges must have jumped against the velocity, by more than the usual jitter of boxes.
        """
        if self.hits < _KNOWN_HITS:
            return np.zeros(len(boxes), np.bool_)
        sizes = self.measured[2:] - self.measured[:2]
        velocity = (self._velocity[:2] + self._velocity[2:]) / 2
        driving = np.abs(velocity) > _DRIVES * sizes * _STEP_S
        back = -np.sign(velocity) * (boxes - self.measured).reshape(-1, 2, 2)  # [N, low or high, axis]
        return np.asarray((driving & (back.min(axis=1) > _BACK * sizes)).any(axis=1), np.bool_)

    def update(self, box: NDArray[np.float64]) -> None:
        """Correct the estimate by a measured box."""
        total = self._position_variance + _MEASUREMENT
        gain, velocity_gain = self._position_variance / total, self._covariance / total
        innovation = box - self.box
        self.box = self.box + gain * innovation
        self._velocity = self._velocity + velocity_gain * innovation
        self._velocity_variance -= velocity_gain * self._covariance
        self._position_variance *= 1 - gain
        self._covariance *= 1 - gain
        self.measured = box
        self.hits += 1
        self.misses = 0
