from __future__ import annotations

import subprocess
import sys

import pytest

from twincar_edge.runtime.locating.boxes import (
    Box,
    Detection,
    area,
    center,
    gap,
    intersection,
    iou,
    touches_border,
    union,
)
from twincar_edge.runtime.tracking.tracker import Tracker, TrackingRules

FPS = 25.0


def follow(
    frames: list[list[Box]], rules: TrackingRules | None = None, fps: float = FPS
) -> tuple[Tracker, list[list[int]]]:
    """Run a tracker over boxes; return it and the ids in each frame."""
    tracker = Tracker(rules)
    ids = [
        [track.id for track in tracker.update([Detection(box) for box in boxes], index / fps)]
        for index, boxes in enumerate(frames)
    ]
    return tracker, ids


def passing(frames: int, start: int, step: int, y: int = 100, size: tuple[int, int] = (120, 60)) -> list[Box]:
    return [(start + step * i, y, start + step * i + size[0], y + size[1]) for i in range(frames)]


def test_a_vehicle_keeps_its_id_while_it_passes() -> None:
    tracker, ids = follow([[box] for box in passing(30, 0, 20)])
    assert ids == [[1]] * 30
    (track,) = tracker.flush()
    assert (track.hits, track.confirmed, track.first_time_s, track.last_time_s) == (30, True, 0.0, 29 / FPS)
    assert track.travel == pytest.approx(29 * 20 / (120**2 + 60**2) ** 0.5)
    assert tracker.flush() == []


def test_tracks_expire_once_while_the_camera_gives_no_frames_and_parked_ones_stay() -> None:
    drives_up = [*passing(10, 0, 30), *[(270, 100, 390, 160)] * 140]
    moves = [None] * 130 + passing(20, 400, 20, y=300)
    frames = [[box for box in both if box is not None] for both in zip(drives_up, moves, strict=True)]
    tracker, _ = follow(frames)
    last_s = 149 / FPS
    assert tracker.expire(last_s + 0.9) == []
    assert [track.id for track in tracker.expire(last_s + 1.1)] == [2]
    assert tracker.expire(last_s + 3600) == []
    (again,) = tracker.update([Detection((270, 100, 390, 160))], last_s + 3601)
    assert (again.id, tracker.lost) == (1, [])
    assert [track.id for track in tracker.flush()] == [1]


def test_two_cars_that_pass_each_other_in_two_lanes_keep_their_ids() -> None:
    right, left = passing(40, 0, 20, y=100), passing(40, 780, -20, y=150)  # ten pixels of overlap in height
    _, ids = follow(
        [[one, other] if i % 2 else [other, one] for i, (one, other) in enumerate(zip(right, left, strict=True))]
    )
    first = ids[0]
    assert all(sorted(frame) == [1, 2] for frame in ids)
    tracker, _ = follow([[one, other] for one, other in zip(right, left, strict=True)])
    ends = {track.first_box_xyxy[0]: track.box_xyxy[0] for track in tracker.flush()}
    assert ends == {0: 780, 780: 0}, first


def test_a_track_is_confirmed_after_enough_hits_and_a_blip_is_not() -> None:
    tracker = Tracker(TrackingRules(confirm_hits=3))
    boxes = passing(3, 0, 10)
    confirmed = [tracker.update([Detection(box)], i / FPS)[0].confirmed for i, box in enumerate(boxes)]
    assert confirmed == [False, False, True]
    assert Tracker(TrackingRules(confirm_hits=1)).update([Detection(boxes[0])], 0.0)[0].confirmed


@pytest.mark.parametrize("fps", [5.0, 30.0])
def test_a_track_ends_after_a_gap_in_seconds_at_any_frame_rate(fps: float) -> None:
    rules = TrackingRules(lost_after_s=0.6)
    standing = (100, 100, 220, 160)
    hidden = [[standing]] * 5 + [[]] * int(0.5 * fps) + [[standing]] * 5
    assert follow(hidden, rules, fps)[1][-1] == [1]
    gone = [[standing]] * 5 + [[]] * (int(0.7 * fps) + 1) + [[standing]] * 5
    assert follow(gone, rules, fps)[1][-1] == [2]


def test_lost_holds_the_tracks_that_ended_in_this_update_only() -> None:
    tracker = Tracker(TrackingRules(lost_after_s=0.2))
    tracker.update([Detection((0, 0, 50, 50))], 0.0)
    tracker.update([], 0.1)
    assert tracker.lost == []
    tracker.update([], 0.5)
    assert [track.id for track in tracker.lost] == [1]
    tracker.update([], 0.6)
    assert tracker.lost == []


def test_a_briefly_hidden_vehicle_is_found_again_at_its_predicted_position() -> None:
    boxes: list[list[Box]] = [[box] for box in passing(40, 0, 20)]
    boxes[15:27] = [[]] * 12  # it moves by twice its length meanwhile
    assert follow(boxes)[1][-1] == [1]


def test_a_fast_vehicle_is_tracked_before_its_velocity_is_known() -> None:
    assert follow([[box] for box in passing(8, 0, 110)])[1] == [[1]] * 8


def test_a_vehicle_that_is_split_into_pieces_in_some_frames_stays_one() -> None:
    frames: list[list[Box]] = [[box] for box in passing(30, 0, 10)]
    for i in range(12, 18):
        left, top, right, bottom = frames[i][0]
        frames[i] = [(left, top, left + 70, bottom), (left + 80, top + 20, right, bottom)]
    tracker, ids = follow(frames)
    assert ids == [[1]] * 30
    (track,) = tracker.flush()
    assert track.box_xyxy == frames[-1][0]


def test_a_vehicle_that_enters_as_two_pieces_is_one() -> None:
    pieces: list[list[Box]] = [[(900 - 50 * i, 100, 960, 200), (900 - 50 * i, 230, 960, 300)] for i in range(4)]
    whole: list[list[Box]] = [[(700 - 50 * i, 100, 960, 300)] for i in range(4)]
    tracker, ids = follow(pieces + whole)
    assert ids[4:] == [[ids[4][0]]] * 4
    assert [track.id for track in tracker.flush()] == ids[4]


def test_a_piece_that_is_merged_into_its_vehicle_is_lost_unconfirmed() -> None:
    tracker, _ = follow([[(900 - 50 * i, 100, 960, 200), (900 - 50 * i, 230, 960, 300)] for i in range(4)])
    (whole,) = tracker.update([Detection((700, 100, 960, 300))], 4 / FPS)
    (piece,) = tracker.lost
    assert piece.id != whole.id
    assert (piece.confirmed, whole.confirmed) == (False, True)


def test_a_young_track_near_another_may_still_be_a_piece_of_that_vehicle() -> None:
    whole, far = passing(12, 0, 20), passing(12, 0, 20, y=400)
    piece = [(right + 30, top, right + 70, bottom) for _, top, right, bottom in whole]
    tracker = Tracker()
    young = []
    for index, boxes in enumerate(zip(whole, piece, far, strict=True)):
        tracks = tracker.update([Detection(box) for box in boxes], index / FPS)
        young.append([tracker.may_be_piece(track) for track in tracks])
    assert young[3] == [True, True, False]  # either may be a piece of the other; the third is far from both
    assert young[-1] == [False, False, False]  # a track this long is a vehicle


def test_a_car_that_leaves_and_one_that_enters_there_are_two() -> None:
    tracker = Tracker()
    leaving = [(x, 100, min(x + 120, 640), 160) for x in range(400, 640, 20)]
    coming = [(x, 100, min(x + 120, 640), 160) for x in range(620, 400, -20)]
    ids, lost = [], []
    for index, box in enumerate([*leaving, None, None, None, *coming]):
        found = tracker.update([Detection(box)] if box else [], index / FPS, (640, 480))
        ids.append([track.id for track in found])
        lost.append([track.id for track in tracker.lost])
    assert ids == [[1]] * 12 + [[]] * 3 + [[2]] * 11
    assert [1] in lost[12:15]  # immediately, not after the timeout for hidden cars


def test_fixed_places_have_separate_tracks_at_any_distance() -> None:
    rules = TrackingRules(fixed=True, lost_after_s=0.6)
    one, other, within = (0, 0, 100, 100), (50, 0, 150, 100), (10, 10, 60, 60)
    _, ids = follow([[one, within]] * 3 + [[other]] * 3 + [[one]] * 3, rules)
    assert ids == [[1, 2]] * 3 + [[3]] * 3 + [[1]] * 3


def test_travel_distinguishes_driving_and_approaching_from_jitter() -> None:
    trembling, _ = follow([[(100 + i % 3, 100, 220 + i % 2, 160)] for i in range(50)])
    assert trembling.flush()[0].travel < 0.05
    nearing, _ = follow([[(100 - 3 * i, 100 - i, 140 + 3 * i, 120 + 2 * i)] for i in range(30)])
    assert nearing.flush()[0].travel > 0.3


def test_a_false_positive_is_discarded_and_not_reported_as_lost() -> None:
    tracker, _ = follow([[(0, 0, 50, 50), (200, 0, 260, 50)]] * 3)
    discarded, driven_off = tracker.discard([(198, 0, 262, 52)])
    assert ([track.id for track in discarded], driven_off) == ([2], [])
    assert [track.id for track in tracker.update([], 9.0)] == []
    assert [track.id for track in tracker.lost] == [1]


def test_a_parked_vehicle_whose_place_is_uncovered_has_driven_off() -> None:
    place = (270, 100, 390, 160)
    tracker, _ = follow([*([box] for box in [*passing(10, 0, 30), *[place] * 140]), *[[]] * 30])
    discarded, driven_off = tracker.discard([place])
    assert (discarded, [track.id for track in driven_off]) == ([], [1])
    assert tracker.flush() == []


def test_boxes() -> None:
    one, other = (0, 0, 10, 10), (5, 5, 15, 25)
    assert (area(one), area((5, 5, 5, 9)), area((5, 5, 1, 1))) == (100, 0, 0)
    assert (intersection(one, other), intersection(one, (10, 0, 20, 10))) == (25, 0)
    assert iou(one, other) == pytest.approx(25 / 275)
    assert iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0
    assert union(one, other) == (0, 0, 15, 25)
    assert (gap(one, (14, 3, 20, 5)), gap(one, other)) == (4, 0)
    assert center(other) == (10, 15)
    assert touches_border((0, 20, 50, 60), (100, 100))
    assert touches_border((20, 20, 99, 60), (100, 100))
    assert not touches_border((20, 20, 80, 80), (100, 100))


def test_tracking_imports_only_numpy() -> None:
    program = (
        "import sys\n"
        "from twincar_edge.runtime.locating.boxes import Detection\n"
        "from twincar_edge.runtime.tracking.tracker import Tracker\n"
        "tracker = Tracker()\n"
        "for index in range(5):\n"
        "    tracker.update([Detection((9 * index, 0, 90 + 9 * index, 50))], index / 25)\n"
        "assert [track.confirmed for track in tracker.flush()] == [True]\n"
        "assert 'numpy' in sys.modules\n"
        "assert not {'cv2', 'scipy', 'matplotlib', 'PIL', 'supervision', 'trackers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
