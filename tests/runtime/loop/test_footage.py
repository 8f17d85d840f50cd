"""Which pictures a camera buffers, and which of them become a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.event_toys import MOMENT
from twincar_edge.runtime.evidence import crop_vehicle
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.loop.footage import FPS, LIMIT_BYTES, Footage
from twincar_edge.runtime.loop.inbox import Crop, End
from twincar_edge.runtime.sinks.clips import Clip, ClipRules
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.visits import Visit

BOX: Box = (10, 10, 60, 40)
RATE = 25.0


class Scene:
    """A minimal camera thread: a test decides what its frames show."""

    def __init__(self, **options: Any) -> None:
        self.clips: list[Clip] = []
        self.footage = Footage(self.clips.append, **options)
        self.index = -1
        self.most_bytes = 0

    def frame(self, picture: NDArray[np.uint8] | None = None) -> Frame:
        self.index += 1
        gray = np.full((90, 160, 3), self.index % 250, np.uint8)
        return Frame(self.index, self.index / RATE, gray if picture is None else picture, "scene")

    def run(self, seconds: float, vehicle: Visit | None = None, counts: bool = True, **frame: Any) -> None:
        """Run for some seconds, with these vehicles in every frame."""
        for _ in range(round(seconds * RATE)):
            one = self.frame(**frame)
            items = []
            if vehicle is not None:
                vehicle.see(one, BOX)
                items.append(Crop("gate", vehicle, crop_vehicle(one, BOX, 1.0), counts, 0.0))
            self.footage.add(one)
            self.footage.see(items, one.time_s)
            self.most_bytes = max(self.most_bytes, self.footage.bytes)

    def enter(self, id: str = "car") -> Visit:
        """A vehicle that first appears in the next frame."""
        first = Frame(self.index + 1, (self.index + 1) / RATE, np.zeros((90, 160, 3), np.uint8), "scene")
        return Visit(id, MOMENT, first, BOX)

    def leave(self, vehicle: Visit, counts: bool = True) -> None:
        self.footage.see([End("gate", vehicle, counts)], self.index / RATE)


def times(clip: Clip) -> list[float]:
    return [picture.time_s for picture in clip.pictures]


def test_a_clip_shows_the_pass_with_some_seconds_before_and_after_at_a_low_frame_rate() -> None:
    scene = Scene()
    scene.run(10)
    car = scene.enter()
    scene.run(3, car)
    scene.run(1)  # out of sight
    scene.leave(car)
    assert scene.clips == []  # the seconds after it belong to the clip too
    scene.run(4)
    (clip,) = scene.clips
    assert (clip.id, clip.started_at, clip.name) == ("car", MOMENT, "20250301T120015.040Z-car.mp4")
    assert 8 <= times(clip)[0] < 8 + 1 / FPS + 1 / RATE
    assert 15 - 1 / FPS - 2 / RATE < times(clip)[-1] <= 15
    steps = np.diff(times(clip))
    assert steps.min() >= 1 / FPS - 1 / RATE
    assert steps.mean() == pytest.approx(1 / FPS, rel=0.05)


def test_a_vehicle_that_stays_soon_gets_one_clip_of_its_arrival() -> None:
    scene = Scene()
    scene.run(5)
    car = scene.enter()
    scene.run(18.2, car)
    (clip,) = scene.clips  # the vehicle is still in view
    scene.run(60, car)
    scene.leave(car)
    scene.run(5)
    scene.footage.close()
    assert scene.clips == [clip]
    assert 3 <= times(clip)[0] < 3.2
    assert 19.5 < times(clip)[-1] - times(clip)[0] <= 20


def test_the_clip_of_a_vehicle_that_is_confirmed_late_ends_at_the_confirmation() -> None:
    scene = Scene()
    car = scene.enter()
    scene.run(40, car, counts=False)
    scene.run(2, car)
    scene.leave(car)
    scene.run(3)
    (clip,) = scene.clips
    assert 19 < times(clip)[0] < 21
    assert times(clip)[-1] - times(clip)[0] <= 20


def test_a_false_positive_has_no_clip() -> None:
    scene = Scene()
    shadow, ghost = scene.enter("shadow"), scene.enter("ghost")
    scene.run(1, shadow, counts=False)
    scene.leave(shadow, counts=False)
    scene.run(1, ghost)
    scene.leave(ghost, counts=False)
    scene.run(30)
    scene.footage.close()
    assert scene.clips == []


def test_a_visit_that_is_confirmed_only_at_its_end_has_a_clip() -> None:
    scene = Scene()
    car = scene.enter()
    scene.run(2, car, counts=False)
    scene.leave(car)
    scene.run(3)
    assert [clip.id for clip in scene.clips] == ["car"]


def test_a_vehicle_in_view_at_the_end_of_the_source_has_a_clip_up_to_the_end() -> None:
    scene = Scene()
    scene.run(5)
    car = scene.enter()
    scene.run(1, car)
    scene.footage.close()
    (clip,) = scene.clips
    assert times(clip)[-1] == pytest.approx(6, abs=1 / FPS + 1 / RATE)
    assert scene.footage.bytes == 0


def test_simultaneous_vehicles_have_separate_clips() -> None:
    scene = Scene()
    scene.run(3)
    one = scene.enter("one")
    scene.run(1, one)
    two = scene.enter("two")
    scene.run(1, two)
    scene.leave(one)
    scene.run(1, two)
    scene.leave(two)
    scene.run(3)
    assert [clip.id for clip in scene.clips] == ["one", "two"]
    assert [round(times(clip)[0]) for clip in scene.clips] == [1, 2]


@pytest.mark.parametrize("limit_bytes", [2_000_000, LIMIT_BYTES])
def test_the_memory_of_buffered_pictures_is_bounded(limit_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    scene = Scene(limit_bytes=limit_bytes)
    car = scene.enter()
    scene.run(25, car, picture=noise)
    assert 0 < scene.most_bytes <= limit_bytes
    (clip,) = scene.clips
    assert sum(len(picture.jpeg) for picture in clip.pictures) <= limit_bytes


def test_old_pictures_are_dropped_even_below_the_memory_limit() -> None:
    scene = Scene(rules=ClipRules(longest_s=4))
    scene.run(60)
    assert len(scene.footage._pictures) <= 4 * FPS + 3


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 80), st.integers(1, 120)), max_size=6), st.integers(0, 60))
def test_the_time_range_of_a_clip_is_bounded(rate: int, passes: list[tuple[int, int]], after: int) -> None:
    """For any frame rate, and vehicles of any duration and distance."""
    clips: list[Clip] = []
    footage, rules = Footage(clips.append), ClipRules()
    picture, index, seen = np.zeros((2, 2, 3), np.uint8), 0, {}
    for number, (pause, length) in enumerate(passes):
        for step in range(pause + length):
            frame = Frame(index, index / rate, picture, "scene")
            index += 1
            items: list[Crop | End] = []
            if step == pause:
                car = Visit(str(number), MOMENT, frame, BOX)
                seen[str(number)] = car
            if step >= pause:
                car.see(frame, BOX)
                items.append(Crop("gate", car, crop_vehicle(frame, (0, 0, 2, 2), 1.0), True, 0.0))
                items += [End("gate", car, True)] if step == pause + length - 1 else []
            footage.add(frame)
            footage.see(items, frame.time_s)
    for _ in range(after):
        frame = Frame(index, index / rate, picture, "scene")
        index += 1
        footage.add(frame)
        footage.see([], frame.time_s)
    footage.close()
    assert sorted(clip.id for clip in clips) == sorted(seen)
    for clip in clips:
        first_s, last_s = seen[clip.id].times_s
        assert first_s - rules.before_s <= times(clip)[0]
        assert times(clip)[-1] <= min(last_s + rules.after_s, times(clip)[0] + rules.longest_s + 1)
        assert times(clip) == sorted(set(times(clip)))
