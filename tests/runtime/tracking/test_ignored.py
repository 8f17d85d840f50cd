from __future__ import annotations

from collections.abc import Callable

from tests.support.clips import BLUE_BGR, RED_BGR, Car, as_frames, drive_by, film
from twincar_edge.runtime.locating.boxes import Box, Detection, Ignored
from twincar_edge.runtime.locating.locate import LocateOptions, make_locator
from twincar_edge.runtime.locating.zones import parse_zone
from twincar_edge.runtime.tracking.ignored import IgnoredCounter


def counted(cars: list[Car], frames: int, **options: object) -> dict[str, int]:
    locator = make_locator("motion", LocateOptions(**options))  # type: ignore[arg-type]
    counter = IgnoredCounter(least_hits=3, lost_after_s=1.0)
    for frame in as_frames(film(cars, frames)):
        counter.update(locator.locate(frame), locator.ignored, frame.time_s)
    counter.flush()
    return dict(counter.counts)


def walker(first: int, y: int) -> Car:
    return Car(BLUE_BGR, first, first + 79, 0, 300, y=y, size_wh=(8, 24))


def test_a_small_object_counts_once_for_all_its_frames() -> None:
    assert counted([walker(10, 20), walker(20, 130)], 140) == {"small": 2}


def test_an_object_that_grows_above_the_limit_is_a_vehicle() -> None:
    nears = [Car(RED_BGR, 10 + n, 10 + n, 20 + 4 * n, 0, 60, (10 + 2 * n, 6 + n)) for n in range(30)]
    assert counted(nears, 60) == {}
    assert counted(nears, 60, min_area=0.05) == {"small": 1}


def test_flicker_without_movement_is_not_counted() -> None:
    lamp = [Car((240, 240, 240), 10 + 3 * n, 11 + 3 * n, 100, 100, size_wh=(10, 10)) for n in range(20)]
    assert counted(lamp, 80) == {}


def test_a_vehicle_is_not_counted_as_ignored() -> None:
    assert counted([drive_by(RED_BGR, 10)], 60) == {}


def test_an_object_counts_for_its_most_frequent_reason() -> None:
    counter = IgnoredCounter(least_hits=3, lost_after_s=1.0)
    place: Callable[[int], Box] = lambda n: (10 * n, 50, 10 * n + 30, 70)  # noqa: E731
    for n in range(10):
        counter.update([], [Ignored(place(n), "small" if n < 2 else "zone")], n / 25)
    counter.update([Detection((0, 0, 300, 40))], [], 10.0)  # time passes, and the object does not reappear
    assert counter.counts == {"zone": 1}


def test_a_better_min_area_is_suggested_if_nearly_all_objects_are_too_small() -> None:
    counter = IgnoredCounter(least_hits=3, lost_after_s=1.0)
    place: Callable[[int, int], Box] = lambda n, size: (100 * n, 50, 100 * n + size, 50 + size)  # noqa: E731
    better = []
    for thing in range(20):
        better.append(counter.better_area(0, 1_000_000))
        for n in range(5):
            size = 60 + thing if n == 2 else 30
            counter.update([], [Ignored(place(n, size), "small")], 10.0 * thing + n / 5)
        counter.flush()
    assert better == [None] * 20  # too few objects for a suggestion
    assert counter.better_area(0, 1_000_000) == 0.003  # the third smallest is 62 pixels wide and high
    assert counter.better_area(2, 1_000_000) == 0.003
    assert counter.better_area(3, 1_000_000) is None  # vehicles are found


def test_motion_outside_the_zone_is_not_counted() -> None:
    assert counted([walker(10, 20)], 100, zones=(parse_zone("0,0.5 1,1"),)) == {}
