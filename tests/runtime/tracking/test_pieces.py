"""Pieces of a vehicle belong to it; a vehicle that follows closely is separate."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.tracking.test_scenes import Visits
from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR, Car, as_frames, film
from twincar_edge.runtime.locating.boxes import Box, Detection
from twincar_edge.runtime.tracking.association import Moving
from twincar_edge.runtime.tracking.tracker import Tracker

SIZE_WH = (640, 360)
FPS = 25.0


def nearing(share: float) -> Box:
    """A car that approaches from the upper left and leaves in the lower right."""
    left, top, right, bottom = (
        round(far + share**2 * (near - far))
        for far, near in zip((200, 110, 260, 150), (560, 260, 900, 460), strict=True)
    )
    return left, top, min(right, SIZE_WH[0]), min(bottom, SIZE_WH[1])


def visits_of(frames: list[list[Box]], fps: float = FPS) -> list[tuple[int, int]]:
    """The first and last frame of each visit: a confirmed track that traveled."""
    tracker, seen, ended = Tracker(), {}, []
    for index, boxes in enumerate(frames):
        for track in tracker.update([Detection(box) for box in boxes], index / fps, SIZE_WH):
            seen.setdefault(track.id, []).append(index)
        ended += tracker.lost
    ended += tracker.flush()
    counting = [track for track in ended if track.confirmed and track.travel >= 0.3]
    return sorted((seen[track.id][0], seen[track.id][-1]) for track in counting)


@pytest.mark.parametrize("fps", [25.0, 10.0, 5.0])
def test_an_approaching_car_and_the_one_that_appears_behind_it_are_two_visits(fps: float) -> None:
    """At first they share one box, from where both appear to the leader's front."""
    every = round(25 / fps)
    frames: list[list[Box]] = []
    for index in range(0, 110, every):
        leader, follower = nearing(min(1.0, index / 50)), nearing(max(0.0, (index - 40) / 50))
        boxes = [leader] if index <= 55 else []
        if 20 <= index <= 32:  # one blob: the leader with the uncovered ground, later with the follower
            boxes = [(200, 110, leader[2], leader[3])]
        elif index > 32:
            boxes.append(follower)
        frames.append(boxes)
    visits = visits_of(frames, fps)
    assert len(visits) == 2
    (_, left), (came, _) = visits
    assert left * every <= 60
    assert came * every <= 60


def test_a_piece_that_moves_with_its_vehicle_stays_part_of_it() -> None:
    frames: list[list[Box]] = []
    for index in range(60):
        left = 8 * index
        whole = (left, 100, left + 120, 160)
        pieces = [(left, 100, left + 70, 160), (left + 80, 120, left + 120, 160)]
        frames.append([whole] if index < 10 else pieces)
    assert visits_of(frames) == [(0, 59)]


def test_a_vehicle_whose_box_is_lost_continues_with_its_piece() -> None:
    frames: list[list[Box]] = []
    for index in range(40):
        left = 8 * index
        pieces = [(left, 100, left + 70, 160), (left + 80, 120, left + 120, 160)]
        frames.append([(left, 100, left + 120, 160)] if index < 10 else pieces[1:] if index > 15 else pieces)
    assert len(visits_of(frames)) == 1


def test_a_moving_vehicle_does_not_jump_back_to_the_one_behind_it() -> None:
    moving = Moving()
    (leader,) = {moving.match([Detection((20 * n, 100, 20 * n + 90, 150))], n / FPS)[0] for n in range(5)}
    behind, onward = (-50, 100, 40, 150), (110, 100, 200, 150)
    assert moving.follows(leader, behind)
    assert not moving.follows(leader, onward)
    assert moving.match([Detection(behind)], 5 / FPS) != [leader]
    assert moving.match([Detection(onward)], 6 / FPS) == [leader]


def test_a_standing_vehicle_has_no_follower() -> None:
    moving = Moving()
    (leader,) = {moving.match([Detection((200, 100, 290, 150))], n / FPS)[0] for n in range(5)}
    assert not moving.follows(leader, (150, 100, 240, 150))


@pytest.mark.parametrize("gap", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_cars_in_a_row_are_separate_visits_at_any_frame_rate(gap: float, every: int) -> None:
    """Seen from the side, with small traffic in the distance."""
    apart = round(90 * (1 + gap) / 6)  # in frames, at 6 pixels per frame
    cars = [
        Car(color, 10 + apart * n, 79 + apart * n, -90, 330)
        for n, color in enumerate((RED_BGR, BLUE_BGR, GREEN_BGR, RED_BGR))
    ]
    far = [Car((200, 200, 60), 0, 140, start, start + 280, 20, (14, 8)) for start in (-60, 0, 90)]
    pictures = film([*far, *cars], 85 + 3 * apart)
    frames = as_frames(pictures)[::every]
    assert len(Visits().watch(frames)) == 4


def test_pieces_are_forgotten_with_time() -> None:
    tracker = Tracker()
    rng = np.random.default_rng(0)
    for index in range(500):
        left = index % 100
        speck = int(rng.integers(0, 100))
        boxes: list[Box] = [(left, 100, left + 120, 160), (left + speck, 110, left + speck + 8, 118)]
        tracker.update([Detection(box) for box in boxes], index / FPS, SIZE_WH)
    assert len(tracker._pieces) <= 25
