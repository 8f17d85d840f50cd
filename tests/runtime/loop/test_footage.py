"""What a camera keeps of its pictures, and which of them become a clip."""

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
    """A camera's thread in small: frames, of which a test says what they show."""

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
        """Show a scene for so long, with a vehicle in every frame."""
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
        """A vehicle that is first seen in the next frame."""
        first = Frame(self.index + 1, (self.index + 1) / RATE, np.zeros((90, 160, 3), np.uint8), "scene")
        return Visit(id, MOMENT, first, BOX)

    def leave(self, vehicle: Visit, counts: bool = True) -> None:
        self.footage.see([End("gate", vehicle, counts)], self.index / RATE)


def times(clip: Clip) -> list[float]:
    return [picture.time_s for picture in clip.pictures]


def test_a_clip_shows_the_pass_and_some_seconds_around_it_at_a_low_rate() -> None:
    scene = Scene()
    scene.run(10)
    car = scene.enter()
    scene.run(3, car)
    scene.run(1)  # out of sight
    scene.leave(car)
    assert scene.clips == []  # what follows is to be in it
    scene.run(4)
    (clip,) = scene.clips
    assert (clip.id, clip.started_at, clip.name) == ("car", MOMENT, "20250301T120015.040Z-car.mp4")
    assert 8 <= times(clip)[0] < 8 + 1 / FPS + 1 / RATE
    assert 15 - 1 / FPS - 2 / RATE < times(clip)[-1] <= 15
    steps = np.diff(times(clip))
    assert steps.min() >= 1 / FPS - 1 / RATE
    assert steps.mean() == pytest.approx(1 / FPS, rel=0.05)


def test_a_vehicle_that_stays_has_one_clip_of_how_it_came_and_has_it_soon() -> None:
    scene = Scene()
    scene.run(5)
    car = scene.enter()
    scene.run(18.2, car)
    (clip,) = scene.clips  # it is still there
    scene.run(60, car)
    scene.leave(car)
    scene.run(5)
    scene.footage.close()
    assert scene.clips == [clip]
    assert 3 <= times(clip)[0] < 3.2
    assert 19.5 < times(clip)[-1] - times(clip)[0] <= 20


def test_a_vehicle_that_counts_late_has_a_clip_that_ends_when_it_began_to_count() -> None:
    scene = Scene()
    car = scene.enter()
    scene.run(40, car, counts=False)
    scene.run(2, car)
    scene.leave(car)
    scene.run(3)
    (clip,) = scene.clips
    assert 19 < times(clip)[0] < 21
    assert times(clip)[-1] - times(clip)[0] <= 20


def test_what_turns_out_to_be_no_vehicle_has_no_clip() -> None:
    scene = Scene()
    shadow, ghost = scene.enter("shadow"), scene.enter("ghost")
    scene.run(1, shadow, counts=False)
    scene.leave(shadow, counts=False)
    scene.run(1, ghost)
    scene.leave(ghost, counts=False)
    scene.run(30)
    scene.footage.close()
    assert scene.clips == []


def test_a_visit_that_counts_only_at_its_end_has_a_clip() -> None:
    scene = Scene()
    car = scene.enter()
    scene.run(2, car, counts=False)
    scene.leave(car)
    scene.run(3)
    assert [clip.id for clip in scene.clips] == ["car"]


def test_what_is_in_view_when_the_source_ends_has_a_clip_up_to_there() -> None:
    scene = Scene()
    scene.run(5)
    car = scene.enter()
    scene.run(1, car)
    scene.footage.close()
    (clip,) = scene.clips
    assert times(clip)[-1] == pytest.approx(6, abs=1 / FPS + 1 / RATE)
    assert scene.footage.bytes == 0


def test_vehicles_at_the_same_time_have_a_clip_each() -> None:
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
def test_the_pictures_in_memory_stay_under_their_limit_whatever_a_camera_shows(limit_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    scene = Scene(limit_bytes=limit_bytes)
    car = scene.enter()
    scene.run(25, car, picture=noise)
    assert 0 < scene.most_bytes <= limit_bytes
    (clip,) = scene.clips
    assert sum(len(picture.jpeg) for picture in clip.pictures) <= limit_bytes


def test_old_pictures_go_although_the_limit_has_room() -> None:
    scene = Scene(rules=ClipRules(longest_s=4))
    scene.run(60)
    assert len(scene.footage._pictures) <= 4 * FPS + 3


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 80), st.integers(1, 120)), max_size=6), st.integers(0, 60))
def test_a_clip_never_leaves_its_time(rate: int, passes: list[tuple[int, int]], after: int) -> None:
    """Whatever the frame rate, and however long vehicles stay or follow each other."""
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
