from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR, SIZE_WH, Car, Image, as_frames, drive_by, film, road
from twincar_edge.errors import InputError
from twincar_edge.runtime.locating.boxes import Detection, iou
from twincar_edge.runtime.locating.locate import LOCATORS, LocateOptions, Locator, make_locator
from twincar_edge.runtime.locating.zones import parse_zone
from twincar_edge.runtime.sources import Frame

WHITE_BGR = (245, 245, 245)


def motion(**options: object) -> Locator:
    return make_locator("motion", LocateOptions(**options))  # type: ignore[arg-type]


def located(locator: Locator, pictures: list[Image], fps: float = 25.0) -> list[list[Detection]]:
    return [locator.locate(frame) for frame in as_frames(pictures, fps)]


def inside(box: tuple[int, ...]) -> tuple[int, ...]:
    """The part of a box inside the picture."""
    return max(0, box[0]), max(0, box[1]), min(SIZE_WH[0], box[2]), min(SIZE_WH[1], box[3])


# --- motion ---


@pytest.mark.parametrize("scale", [1, 3, 6])
def test_motion_boxes_a_car_in_pixels_of_the_full_frame(scale: int) -> None:
    car = drive_by(RED_BGR, first=10)
    pictures = [
        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) for picture in film([car], 40)
    ]
    for index, found in enumerate(located(motion(), pictures)):  # type: ignore[arg-type]
        box = car.box(index)
        if box is None:
            assert found == []
        elif 0 <= box[0] <= SIZE_WH[0] - 90:
            assert len(found) == 1
            assert iou([edge / scale for edge in found[0].box_xyxy], inside(box)) > 0.85
            assert 0.5 < found[0].score <= 1


def test_motion_finds_nothing_in_noise_and_flickering_light() -> None:
    rng = np.random.default_rng(3)
    pictures = []
    for picture in film([], 80, noise=5.0):
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.95, 1.05, 3)  # brightness, and slightly the color
        pictures.append(np.clip(picture * gain, 0, 255).astype(np.uint8))
    assert all(found == [] for found in located(motion(), pictures))


def test_motion_finds_only_the_car_while_the_exposure_adapts_to_it() -> None:
    car = drive_by(WHITE_BGR, first=20, frames=40)
    pictures = film([car], 100)
    for index in range(20, 100):  # like an automatic exposure: down to 55% while the car is visible, then back
        gain = 1 - 0.45 * min(1.0, (index - 20) / 10) * min(1.0, max(0.0, (90 - index) / 20))
        pictures[index] = np.clip(pictures[index] * gain, 0, 255).astype(np.uint8)
    for index, found in enumerate(located(motion(), pictures)):
        box = car.box(index)
        if box is None:
            assert found == []
        elif box[0] >= 0 and box[2] <= SIZE_WH[0]:
            assert [iou(one.box_xyxy, box) > 0.8 for one in found] == [True]


def test_motion_finds_nothing_in_an_overexposed_sky_when_the_exposure_changes() -> None:
    empty = film([], 90)
    for index, picture in enumerate(empty):
        gain = 1 - 0.4 * min(1.0, max(0.0, (index - 20) / 15)) + 0.4 * min(1.0, max(0.0, (index - 60) / 15))
        radiance = picture.astype(np.float32)
        radiance[:60] *= 3.4  # about 320: clipped to white, until the exposure falls to four fifths
        picture[:] = np.clip(radiance * gain, 0, 255).astype(np.uint8)
    assert all(found == [] for found in located(motion(), empty))


def test_motion_ignores_shadows() -> None:
    pictures = film([], 60)
    for index in range(20, 60):
        left = 5 * (index - 20)
        shadow = pictures[index][50:130, left : left + 120]
        shadow[:] = (shadow * 0.7).astype(np.uint8)
    assert all(found == [] for found in located(motion(), pictures))


def test_motion_ignores_persons() -> None:
    walker = Car(BLUE_BGR, 10, 60, 0, 300, size_wh=(8, 24))
    assert all(found == [] for found in located(motion(), film([walker], 60)))
    assert any(found for found in located(motion(min_area=0.002), film([walker], 60)))


def test_motion_does_not_split_a_car_whose_middle_has_the_roads_color() -> None:
    pictures = film([], 20)
    for index in range(10, 20):
        cv2.rectangle(pictures[index], (100, 60), (170, 109), RED_BGR, -1)
        cv2.rectangle(
            pictures[index], (180, 75), (194, 109), RED_BGR, -1
        )  # the trunk, behind a strip in the gray of the road
    for found in located(motion(), pictures)[10:]:
        assert [iou(one.box_xyxy, (100, 60, 195, 110)) > 0.85 for one in found] == [True]


def test_motion_separates_two_cars_that_pass_close_to_each_other() -> None:
    upper, lower = drive_by(RED_BGR, 10), drive_by(GREEN_BGR, 10, to_the_right=False)
    upper, lower = Car(*_with_y(upper, 30)), Car(*_with_y(lower, 90))  # ten pixels between them
    frames = located(motion(), film([upper, lower], 40))
    for index in range(18, 33):
        assert len(frames[index]) == 2


def _with_y(car: Car, y: int) -> tuple[object, ...]:
    return car.color_bgr, car.first, car.last, car.start, car.end, y


def test_a_car_that_stops_does_not_dissolve() -> None:
    parked = (115, 60, 205, 110)
    arrives = Car(RED_BGR, 5, 20, -90, 115)
    stands = Car(RED_BGR, 21, 110, 115, 115)
    leaves = Car(RED_BGR, 111, 125, 115, 330)
    frames = located(motion(), film([arrives, stands, leaves], 135), fps=5.0)
    for found in frames[21:110]:  # 18 seconds
        assert [iou(one.box_xyxy, parked) > 0.85 for one in found] == [True]
    assert frames[-1] == []


def test_a_permanent_change_is_absorbed_into_the_background_within_half_a_minute() -> None:
    lamp = Car(WHITE_BGR, 10, 100, 115, 115)
    frames = located(motion(), film([lamp], 100), fps=2.0)
    assert len(frames[15]) == 1
    assert frames[-1] == []
    gone = next(index for index in range(15, 100) if not frames[index])
    assert 29 < (gone - 10) / 2 < 32


def test_a_parked_car_that_leaves_leaves_no_ghost() -> None:
    parked, leaves = Car(RED_BGR, 0, 20, 100, 100), Car(RED_BGR, 21, 45, 100, 330)  # visible from the first frame
    locator = motion()
    frames = as_frames(film([parked, leaves], 60))
    found = [locator.locate(frame) for frame in frames[:-1]]
    assert found[:21] == [[]] * 21
    assert any(len(one) == 1 and one[0].box_xyxy[0] > 190 for one in found[21:46])  # the car itself
    assert found[-1] == []


def test_a_zone_is_free_again_when_a_parked_car_has_left_it() -> None:
    parked, leaves = Car(RED_BGR, 0, 20, 100, 100), Car(RED_BGR, 21, 45, 100, 330)
    locator = make_locator("zone", LocateOptions(zones=(parse_zone("60,40 240,130"),)))
    found = located(locator, film([parked, leaves], 80))
    assert any(found[21:46])
    assert found[-1] == []


def test_a_changed_scene_becomes_the_background_within_seconds() -> None:
    rng = np.random.default_rng(5)
    other = rng.integers(0, 255, (12, 20, 3), np.uint8)  # the camera was turned, so the whole picture has changed
    elsewhere = cv2.resize(other, SIZE_WH, interpolation=cv2.INTER_CUBIC)
    frames = located(motion(), film([], 20) + [elsewhere.astype(np.uint8)] * 40, fps=10.0)
    assert frames[21] != []
    assert frames[-1] == []


def test_a_frame_of_another_size_resets_the_background() -> None:
    locator = motion()
    pictures = film([], 10)
    larger = [cv2.resize(picture, (400, 300)) for picture in pictures]
    assert all(found == [] for found in located(locator, [*pictures, *larger]))  # type: ignore[list-item]


def test_motion_with_a_zone_finds_only_vehicles_inside() -> None:
    cars = [Car(RED_BGR, 10, 39, -90, 320, y=20), Car(GREEN_BGR, 10, 39, -90, 320, y=110)]
    found = located(motion(zones=(parse_zone("0,0 1,0.5"),)), film(cars, 40))[25]
    assert len(found) == 1
    assert found[0].box_xyxy[3] < 90


def test_motion_ignores_excluded_zones() -> None:
    cars = [Car(RED_BGR, 10, 39, -90, 320, y=20), Car(GREEN_BGR, 10, 39, -90, 320, y=110)]
    found = located(motion(zones=(parse_zone("exclude=0,0 1,0.5"),)), film(cars, 40))[25]
    assert len(found) == 1
    assert found[0].box_xyxy[1] > 90


# --- whole frame and zones ---


def test_a_zone_is_occupied_while_a_car_is_in_it() -> None:
    zone = parse_zone("160,40 310,130")
    locator = make_locator("zone", LocateOptions(zones=(zone,)))
    car = drive_by(BLUE_BGR, first=10, frames=40)
    for index, found in enumerate(located(locator, film([car], 60))):
        box = car.box(index)
        if box is None or box[2] < 155:
            assert found == []
        elif box[0] > 160 and box[2] < 310:
            assert [one.box_xyxy for one in found] == [(160, 40, 310, 130)]
            assert 0.2 < found[0].score < 0.5


def test_the_whole_frame_is_occupied_while_a_car_is_in_it() -> None:
    locator = make_locator("whole", LocateOptions())
    frames = located(locator, film([drive_by(BLUE_BGR, first=10)], 60))
    assert all(found == [] for found in frames[:10] + frames[45:])
    assert [one.box_xyxy for one in frames[25]] == [(0, 0, *SIZE_WH)]


def test_only_changes_inside_the_polygon_count() -> None:
    triangle = parse_zone("0,0 0.5,0 0,1")
    locator = make_locator("zone", LocateOptions(zones=(triangle,)))
    pictures = film([], 10)
    for picture in pictures[5:]:
        cv2.rectangle(picture, (110, 120), (159, 179), WHITE_BGR, -1)  # in the bounding box, but not in the triangle
    assert all(found == [] for found in located(locator, pictures))


@pytest.mark.parametrize("name", ["whole", "zone"])
def test_changes_in_excluded_zones_do_not_occupy_a_place(name: str) -> None:
    zones = (parse_zone("exclude=0,0 1,0.5"),) + ((parse_zone("0,0 1,1"),) if name == "zone" else ())
    locator = make_locator(name, LocateOptions(zones=zones))
    cars = [Car(RED_BGR, 10, 39, -90, 320, y=20), Car(GREEN_BGR, 60, 89, -90, 320, y=110)]
    occupied = [bool(found) for found in located(locator, film(cars, 100))]
    assert not any(occupied[:55])
    assert all(occupied[70:80])


def test_each_single_image_is_one_vehicle() -> None:
    frame = Frame(0, 0.0, road(), "one.jpg")
    whole = make_locator("whole", LocateOptions(stills=True)).locate(frame)
    assert [one.box_xyxy for one in whole] == [(0, 0, *SIZE_WH)]
    zones = (parse_zone("0.25,0.5 0.75,1"), parse_zone("10,10 20,10 20,30"))
    boxes = [one.box_xyxy for one in make_locator("zone", LocateOptions(zones=zones, stills=True)).locate(frame)]
    assert boxes == [(80, 90, 240, 180), (10, 10, 20, 30)]


# --- options ---


def test_a_zone_outside_the_frame_is_a_one_line_error() -> None:
    locator = make_locator("zone", LocateOptions(zones=(parse_zone("400,10 500,90"),)))
    with pytest.raises(InputError, match="outside the frame, which is 320 by 180"):
        locator.locate(Frame(0, 0.0, road(), "frame"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("motoin", LocateOptions(), "did you mean 'motion'"),
        ("zone", LocateOptions(), "needs a polygon: set `zones`"),
        ("whole", LocateOptions(zones=(parse_zone("0,0 1,1"),)), "accepts no zones: use `locate='zone'`"),
        ("zone", LocateOptions(zones=(parse_zone("exclude=0,0 1,1"),)), "set `zones`"),
        ("motion", LocateOptions(stills=True), "not single images: use `locate='whole'`"),
        ("detector", LocateOptions(), "needs a detector: get one with"),
    ],
)
def test_conflicting_options_are_a_one_line_error(name: str, options: LocateOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_locator(name, options)
    assert set(LOCATORS) == {"whole", "zone", "motion", "detector"}
