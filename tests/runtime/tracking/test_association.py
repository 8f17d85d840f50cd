from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twincar_edge.runtime.locating.boxes import Box, Detection
from twincar_edge.runtime.tracking.association import Moving, _generalized_iou

_EDGE = st.floats(-1000, 1000)
_BOX = st.tuples(_EDGE, _EDGE, _EDGE, _EDGE)


def test_generalized_iou_measures_overlap_and_distance() -> None:
    ones = np.array([[0.0, 0, 10, 10]])
    others = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [90, 0, 100, 10], [10, 10, 0, 0]])
    # The last box is inverted and has no area, so the enclosing box is the first one.
    assert _generalized_iou(ones, others)[0] == pytest.approx([1, 1 / 3, 0, -0.8, 0])


@given(st.lists(_BOX, min_size=1, max_size=4), st.lists(_BOX, min_size=1, max_size=4))
def test_generalized_iou_is_between_minus_one_and_one_for_any_boxes(
    ones: list[tuple[float, ...]], others: list[tuple[float, ...]]
) -> None:
    fit = _generalized_iou(np.array(ones), np.array(others))
    assert fit.shape == (len(ones), len(others))
    assert ((fit >= -1 - 1e-9) & (fit <= 1 + 1e-9)).all()


def box_at(x: int) -> Box:
    return x, 100, x + 90, 150


def test_boxes_are_matched_to_vehicles_with_the_best_total() -> None:
    moving = Moving()
    left, right = moving.match([Detection(box_at(0)), Detection(box_at(100))], 0.0)
    # The first new box is nearest to the right vehicle, but the second one fits no other.
    assert moving.match([Detection(box_at(60)), Detection(box_at(160))], 0.04) == [left, right]


def test_sure_boxes_are_matched_before_weak_ones_and_only_they_start_vehicles() -> None:
    moving = Moving()
    unsure = Detection(box_at(0), begins=False)
    assert moving.match([unsure], 0.0) == [None]
    (vehicle,) = moving.match([Detection(box_at(0))], 0.04)
    assert moving.match([unsure, Detection(box_at(20))], 0.08) == [None, vehicle]
    assert moving.match([unsure], 0.12) == [vehicle]


@pytest.mark.parametrize(("boxes", "still_there"), [(1, False), (2, True)])
def test_a_vehicle_with_one_box_is_dropped_after_two_frames_without_it(boxes: int, still_there: bool) -> None:
    moving = Moving()
    for index in range(boxes):
        (vehicle,) = moving.match([Detection(box_at(0))], index / 25)
    moving.match([], boxes / 25)
    moving.match([], (boxes + 1) / 25)
    (found,) = moving.match([Detection(box_at(0))], (boxes + 2) / 25)
    assert (found is vehicle) == still_there


def test_one_missed_frame_drops_no_vehicle() -> None:
    moving = Moving()
    (vehicle,) = moving.match([Detection(box_at(0))], 0.0)
    moving.match([], 0.04)
    assert moving.match([Detection(box_at(0))], 0.08) == [vehicle]


def test_a_forgotten_vehicle_is_not_matched_again() -> None:
    moving = Moving()
    (vehicle,) = moving.match([Detection(box_at(0))], 0.0)
    moving.forget([vehicle, object()])
    assert moving.match([Detection(box_at(0))], 0.04) != [vehicle]


def test_hundreds_of_boxes_are_matched() -> None:
    boxes = [Detection((13 * n, 7 * n % 300, 13 * n + 60, 7 * n % 300 + 40)) for n in range(300)]
    moving = Moving()
    vehicles = moving.match(boxes, 0.0)
    assert moving.match(boxes, 0.04) == vehicles
