"""One vehicle, one visit: vehicles that are hidden, park and flicker, with the real locator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import pytest

from tests import REPOSITORY
from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR, Car, Image, as_frames, road
from twincar_edge.labels import ClassMapping
from twincar_edge.runtime.locating.boxes import Box, Detection
from twincar_edge.runtime.locating.locate import LocateOptions, make_locator
from twincar_edge.runtime.sources import Frame, open_source
from twincar_edge.runtime.tracking.tracker import Track, Tracker, TrackingRules
from twincar_edge.runtime.truth import Pass, read_truth

SIZE_WH = (640, 180)
FPS = 10.0
STEP = 25  # pixels per frame: a car of 90 pixels moves by its length in 0.36 s
TREE = (220, 420)  # 200 pixels wide: it hides such a car for 0.4 to 0.9 s


def scene(
    cars: Sequence[Car],
    frames: int,
    tree: tuple[int, int] | None = None,
    light: Callable[[int], float] = lambda index: 1.0,
) -> list[Image]:
    """A wide road with a tree in front of it that hides cars."""
    rng = np.random.default_rng(0)
    empty = road(0, SIZE_WH)
    pictures = []
    for index in range(frames):
        picture = empty.copy()
        for car in cars:
            car.draw(picture, index)
        if tree is not None:
            cv2.rectangle(picture, (tree[0], 0), (tree[1], SIZE_WH[1] - 1), (40, 90, 50), -1)
        grain = rng.normal(0, 2, (*picture.shape[:2], 1))
        pictures.append(np.clip(picture * light(index) + grain, 0, 255).astype(np.uint8))
    return pictures


def drive(color: tuple[int, int, int], first: int, start: int, end: int, y: int = 60) -> Car:
    frames = round(abs(end - start) / STEP)
    return Car(color, first, first + frames, start, end, y=y)


class Visits:
    """Turns tracks into visits like the loop: confirmed tracks that traveled, with their frames."""

    def __init__(self, rules: TrackingRules | None = None) -> None:
        self.tracker = Tracker(rules)
        self.frames: dict[int, list[int]] = {}
        self.ended: list[Track] = []
        self.discarded: list[Track] = []

    def take(self, frame: int, found: Iterable[Track]) -> None:
        for track in found:
            self.frames.setdefault(track.id, []).append(frame)
        self.ended += self.tracker.lost

    def watch(self, frames: Iterable[Frame]) -> list[tuple[int, int]]:
        locator = make_locator("motion", LocateOptions())
        for frame in frames:
            rows, columns = frame.image_bgr.shape[:2]
            detections = locator.locate(frame)
            discarded, driven_off = self.tracker.discard(locator.uncovered)
            self.discarded += discarded
            self.ended += driven_off
            self.take(frame.index, self.tracker.update(detections, frame.time_s, (columns, rows)))
        return self.visits()

    def follow(self, frames: Sequence[Sequence[Detection]], fps: float = FPS) -> list[tuple[int, int]]:
        for index, detections in enumerate(frames):
            self.take(index, self.tracker.update(detections, index / fps, SIZE_WH))
        return self.visits()

    def visits(self) -> list[tuple[int, int]]:
        self.ended += self.tracker.flush()
        count = [track for track in self.ended if track.confirmed and track.travel >= 0.3]
        return sorted((self.frames[track.id][0], self.frames[track.id][-1]) for track in count)


# --- hidden ---


@pytest.mark.parametrize("tree", [(220, 240), (220, 280), (220, 320), (220, 370), TREE])
@pytest.mark.parametrize("to_the_right", [True, False])
def test_a_car_that_passes_behind_a_pole_or_a_tree_is_one_visit(tree: tuple[int, int], to_the_right: bool) -> None:
    car = drive(RED_BGR, 5, -90, 640) if to_the_right else drive(RED_BGR, 5, 640, -90)
    (visit,) = Visits().watch(as_frames(scene([car], 45, tree), FPS))
    assert (visit[0] <= 8, visit[1] >= 31) == (True, True)


@pytest.mark.parametrize("seconds", [2, 8])
def test_a_car_that_stops_behind_a_tree_is_one_visit_if_lost_after_is_long_enough(seconds: int) -> None:
    hidden = int(seconds * FPS)
    there, away = drive(RED_BGR, 5, -90, 285), drive(RED_BGR, 21 + hidden, 285, 640)
    pictures = scene([there, Car(RED_BGR, 21, 20 + hidden, 285, 285), away], hidden + 45, TREE)
    assert len(Visits(TrackingRules(lost_after_s=seconds + 1.0)).watch(as_frames(pictures, FPS))) == 1
    assert len(Visits(TrackingRules(lost_after_s=1.0)).watch(as_frames(pictures, FPS))) == 2


def test_two_cars_one_after_the_other_behind_a_tree_are_two_visits() -> None:
    first, second = drive(RED_BGR, 5, -90, 640), drive(BLUE_BGR, 12, -90, 640)
    assert len(Visits().watch(as_frames(scene([first, second], 50, TREE), FPS))) == 2


def test_two_cars_that_meet_behind_a_tree_are_two_visits() -> None:
    first, second = drive(RED_BGR, 5, -90, 640, y=20), drive(BLUE_BGR, 5, 640, -90, y=110)
    assert len(Visits().watch(as_frames(scene([first, second], 50, TREE), FPS))) == 2


# --- parked ---


def parks(seconds: float, *, first: int = 5, leaves: bool = True) -> tuple[list[Car], int]:
    """A car that arrives, parks, and may leave; and the frame in which it leaves."""
    stands = first + 13
    away = stands + int(seconds * FPS)
    cars = [drive(RED_BGR, first, -90, 235), Car(RED_BGR, stands + 1, away, 240, 240)]
    return [*cars, drive(RED_BGR, away + 1, 250, 640)] if leaves else cars, away


@pytest.mark.parametrize("seconds", [5, 45])
def test_a_car_that_parks_and_drives_off_is_one_visit_from_first_to_last(seconds: int) -> None:
    cars, away = parks(seconds)  # after 45 seconds it has become background
    visits = Visits()
    ((first, last),) = visits.watch(as_frames(scene(cars, away + 25), FPS))
    assert (first <= 8, last >= away + 14) == (True, True)
    assert not [track for track in visits.discarded if track.confirmed and track.travel >= 0.3]


def test_a_parked_car_begins_no_second_visit_while_the_light_changes() -> None:
    cars, away = parks(90, leaves=False)
    pictures = scene(cars, away, light=lambda index: 1 + 0.3 * np.sin(index / 60))
    for index in range(500, 600):  # a cloud's shadow on the car and the road around it
        pictures[index][50:120, 220:350] = pictures[index][50:120, 220:350] // 2
    assert len(Visits().watch(as_frames(pictures, FPS))) == 1


def test_a_car_that_passes_a_parked_one_is_a_separate_visit() -> None:
    cars, away = parks(50)
    passes = [drive(BLUE_BGR, 420, -90, 640, y=75), drive(GREEN_BGR, 470, 640, -90, y=75)]
    visits = Visits().watch(as_frames(scene([*cars, *passes], away + 25), FPS))
    assert len(visits) == 3
    assert visits[0][1] >= away + 14


def test_a_car_that_was_parked_before_the_start_is_one_visit_when_it_drives_off() -> None:
    stands, leaves = Car(RED_BGR, 0, 50, 240, 240), drive(RED_BGR, 51, 240, 640)
    assert len(Visits().watch(as_frames(scene([stands, leaves], 80), FPS))) == 1


def test_a_parked_position_is_freed_by_another_car_or_after_a_timeout() -> None:
    stands = Detection((240, 60, 330, 110))
    arrives = [Detection((x, 60, x + 90, 110)) for x in range(0, 240, 20)]
    comes = [[one] for one in arrives] + [[stands]] * 50
    visits = Visits(TrackingRules(parked_for_s=60))
    assert len(visits.follow([*comes, *[[]] * 50, *comes, *[[]] * 50])) == 2
    one = Visits(TrackingRules(parked_for_s=60))
    one.follow([*comes, *[[]] * 590])
    assert len(one.tracker.lost) == 0
    other = Visits(TrackingRules(parked_for_s=60))
    for index, detections in enumerate([*comes, *[[]] * 610]):
        other.take(index, other.tracker.update(detections, index / FPS, SIZE_WH))
    assert [track.id for track in other.ended] == [1]


# --- flicker ---


def box_at(x: int, y: int = 60) -> Box:
    return x, y, x + 90, y + 50


def test_a_vehicle_with_flickering_detections_is_one_visit() -> None:
    rng = np.random.default_rng(7)
    frames = []
    for index in range(60):
        found = rng.random() < 0.6
        sure = bool(rng.random() < 0.5)
        shake = rng.integers(-4, 5, 4)
        box = tuple(int(edge) for edge in np.array(box_at(20 + 9 * index)) + shake)
        frames.append([Detection(box, 0.5, begins=sure)] if found else [])  # type: ignore[arg-type]
    assert len(Visits().follow(frames)) == 1


def test_weak_detections_alone_are_not_a_vehicle() -> None:
    visits = Visits()
    assert visits.follow([[Detection(box_at(20 + 9 * index), 0.2, begins=False)] for index in range(60)]) == []
    assert visits.frames == {}


def test_a_weak_detection_continues_a_vehicle_but_never_instead_of_a_sure_one() -> None:
    weak = Detection(box_at(300, 62), 0.2, begins=False)
    frames = [[Detection(box_at(20 + 10 * index)), weak] for index in range(28)]
    visits = Visits()
    assert len(visits.follow(frames)) == 1
    assert visits.ended[0].box_xyxy == box_at(290)


def test_frames_with_equal_or_late_times_do_not_lose_a_vehicle() -> None:
    tracker = Tracker()
    ids = set()
    for index, time_s in enumerate([0.0, 0.1, 0.1, 0.2, 0.1, 0.3, 0.9, 1.0]):
        ids |= {track.id for track in tracker.update([Detection(box_at(20 + 5 * index))], time_s)}
    assert ids == {1}


def test_memory_does_not_grow_with_a_vehicle_that_stays() -> None:
    tracker = Tracker()
    for index in range(2000):
        tracker.update([Detection(box_at(100)), Detection(box_at(300))], index / 25)
        tracker.update([Detection(box_at(100))], index / 25 + 0.02)
    assert len(tracker._tracks) == 2
    assert len(tracker._matcher._vehicles) <= 2  # type: ignore[attr-defined]


# --- real clips ---


def passes_of(visits: Sequence[tuple[int, int]], passes: Sequence[Pass]) -> list[int]:
    """The number of visits of each pass; a visit belongs to the pass with which it shares the most frames."""
    counts = [0] * len(passes)
    for first, last in visits:
        shared = [min(last, one.last_frame) - max(first, one.first_frame) for one in passes]
        counts[int(np.argmax(shared))] += 1
    return counts


@pytest.mark.parametrize("stride", [1, 4])
def test_each_pass_of_the_bundled_clip_is_one_visit_at_any_frame_rate(stride: int) -> None:
    assets = REPOSITORY / "twincar_edge" / "assets"
    names = ClassMapping(tuple(f"Make Model{number} Sedan 2020" for number in range(200)))
    passes = read_truth(assets / "gate.json", names)
    with open_source(str(assets / "gate.mp4"), stride=stride) as source:
        visits = Visits().watch(source)
    assert passes_of(visits, passes) == [1] * len(passes)
