"""Matches boxes of successive frames to vehicles.

ByteTrack (Zhang et al., arXiv:2110.06864): a Kalman filter predicts where each vehicle should be, and boxes are
assigned to vehicles so that the total fit is best. Boxes with a high score are assigned first, then the others, which
can continue a vehicle but not begin one. A vehicle with a single box is dropped soon, as it may have been noise.
Fit is generalized IoU (Rezatofighi et al., arXiv:1902.09630), which also tells near from far without overlap: at five
frames a second a car moves on by more than its length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.locating.boxes import Box, Detection, iou
from twincar_edge.runtime.tracking.assignment import assign
from twincar_edge.runtime.tracking.kalman import BoxFilter

Handle = object
"""Identifies one vehicle: two boxes with the same handle are the same vehicle."""

_LEAST_FIT = -0.5  # generalized IoU, which is -1 for boxes infinitely far apart and 1 for the same
_UNCONFIRMED_MISSES = 2  # frames without a box after which a vehicle that only ever had one is dropped
_LEAST_STEP_S = 1e-3  # frames with equal times, as in broken files, count as this far apart


class Matcher(ABC):
    """Matches boxes to vehicles."""

    @abstractmethod
    def match(self, detections: Sequence[Detection], time_s: float) -> list[Handle | None]:
        """Return each box's vehicle; None for a low-score box that matches none."""

    def follows(self, handle: Handle, box: Box) -> bool:
        """Return whether a box lies so far behind a moving vehicle that it must be a following one."""
        return False

    @abstractmethod
    def forget(self, handles: Iterable[Handle]) -> None:
        """Stop looking for these vehicles."""


class Moving(Matcher):
    """For boxes that move with their vehicles. `TrackingRules` decide when a vehicle is lost; it is then forgotten."""

    def __init__(self) -> None:
        """Start without vehicles."""
        self._vehicles: list[BoxFilter] = []
        self._time_s = -np.inf

    def match(self, detections: Sequence[Detection], time_s: float) -> list[Handle | None]:
        """Return each box's vehicle."""
        before_s, self._time_s = self._time_s, max(time_s, self._time_s + _LEAST_STEP_S)
        for vehicle in self._vehicles:
            vehicle.predict(self._time_s - before_s)
        boxes = np.array([detection.box_xyxy for detection in detections], np.float64).reshape(-1, 4)
        matched: dict[int, BoxFilter] = {}
        for begins in (True, False):
            rows = [row for row, detection in enumerate(detections) if detection.begins is begins]
            unmatched = [vehicle for vehicle in self._vehicles if vehicle.misses]
            matched.update(_matches(unmatched, rows, boxes))
        for row, detection in enumerate(detections):
            if row not in matched and detection.begins:
                matched[row] = BoxFilter(boxes[row])
                self._vehicles.append(matched[row])
        self._vehicles = [one for one in self._vehicles if one.hits > 1 or one.misses < _UNCONFIRMED_MISSES]
        return [matched.get(row) for row in range(len(detections))]

    def follows(self, handle: Handle, box: Box) -> bool:
        """Return whether a box lies behind the vehicle."""
        return isinstance(handle, BoxFilter) and bool(handle.backs_up(np.array([box], np.float64))[0])

    def forget(self, handles: Iterable[Handle]) -> None:
        """Stop looking for these vehicles."""
        gone = set(handles)
        self._vehicles = [vehicle for vehicle in self._vehicles if vehicle not in gone]


class Places(Matcher):
    """For boxes that are places, occupied or free, such as zones: the same place is the same vehicle."""

    def __init__(self) -> None:
        """Start without vehicles."""
        self._places: dict[Handle, Box] = {}

    def match(self, detections: Sequence[Detection], time_s: float) -> list[Handle | None]:
        """Return each box's vehicle."""
        handles: list[Handle | None] = []
        for detection in detections:
            box = detection.box_xyxy
            handle = next((handle for handle, place in self._places.items() if iou(place, box) > 0.9), None)
            handles.append(handle or object())
            self._places[handles[-1]] = box
        return handles

    def forget(self, handles: Iterable[Handle]) -> None:
        """Stop looking for these vehicles."""
        for handle in handles:
            self._places.pop(handle, None)


def _matches(vehicles: Sequence[BoxFilter], rows: Sequence[int], boxes: NDArray[np.float64]) -> dict[int, BoxFilter]:
    """Assign the boxes of these rows to vehicles, update those that fit well enough, and return them by row."""
    if not vehicles or not rows:
        return {}
    fit = _generalized_iou(np.stack([vehicle.box for vehicle in vehicles]), boxes[rows])
    for row, vehicle in enumerate(vehicles):
        fit[row, vehicle.backs_up(boxes[rows])] = -1.0
    matches = {rows[column]: vehicles[row] for row, column in assign(-fit) if fit[row, column] >= _LEAST_FIT}
    for row, vehicle in matches.items():
        vehicle.update(boxes[row])
    return matches


def _generalized_iou(ones: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the pairwise generalized IoU of boxes [N, 4] and [M, 4], float64 [N, M].

    A predicted box may be inverted: its area is 0.
    """
    ones = ones[:, None]
    low, high = np.maximum(ones[..., :2], others[:, :2]), np.minimum(ones[..., 2:], others[:, 2:])
    shared = _area(low, high)
    whole = _area(ones[..., :2], ones[..., 2:]) + _area(others[:, :2], others[:, 2:]) - shared
    around = _area(np.minimum(ones[..., :2], others[:, :2]), np.maximum(ones[..., 2:], others[:, 2:]))
    return _ratio(shared, whole) - _ratio(around - whole, around)


def _area(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(high - low, 0.0).prod(axis=-1))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
