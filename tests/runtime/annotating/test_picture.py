"""Tracks and answers are drawn on a frame; the rest of the frame stays unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.clips import Image
from twincar_edge.draw import PALETTE
from twincar_edge.runtime.annotating.picture import Labels, Painter
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.locating.boxes import Box, Ignored
from twincar_edge.runtime.locating.zones import parse_zone
from twincar_edge.runtime.loop.answering import LiveFrame, LiveTrack
from twincar_edge.runtime.sources import Frame

BOX: Box = (300, 200, 500, 340)
PUBLISHED = LiveTrack(1, BOX, "Castor Red Sedan 2020", "year", "90%", 5, True)


def live(*tracks: LiveTrack, size_wh: tuple[int, int] = (800, 450), time_s: float = 0.0, **more: object) -> LiveFrame:
    gray = np.full((size_wh[1], size_wh[0], 3), 90, np.uint8)
    return LiveFrame("gate", Frame(0, time_s, gray, "clip"), tracks, **more)  # type: ignore[arg-type]


def has(image: Image, color: tuple[int, int, int], box: Box) -> bool:
    left, top, right, bottom = box
    return bool((image[top:bottom, left:right] == color).all(axis=2).any())


def drawn(image: Image, before: Image) -> Image:
    """Where the picture has changed: bool [H, W]."""
    return np.asarray((image != before).any(axis=2))


@pytest.fixture
def painter() -> Painter:
    return Painter(CameraConfig(name="gate"))


def test_a_vehicle_has_a_box_in_its_color_and_its_inside_stays_visible(painter: Painter) -> None:
    frame = live(PUBLISHED)
    image = painter.paint(frame)
    left, top, right, bottom = BOX
    color = PALETTE[PUBLISHED.id % len(PALETTE)]
    for x, y in ((left, 270), (right - 1, 270), (350, bottom - 1)):
        assert tuple(image[y, x]) == color
    assert not drawn(image, frame.frame.image_bgr)[top + 5 : bottom - 10, left + 5 : right - 5].any()
    assert (frame.frame.image_bgr == 90).all()  # the frame is shared, so it must not change


def test_a_vehicle_is_gray_until_its_first_event(painter: Painter) -> None:
    image = painter.paint(live(LiveTrack(1, BOX, "Castor Red Sedan 2020", "year", "90%", 5, False)))
    assert not any(has(image, color, (0, 0, 800, 450)) for color in PALETTE)


def test_two_vehicles_side_by_side_have_two_colors(painter: Painter) -> None:
    beside = LiveTrack(2, (500, 200, 700, 340), "unknown", "unknown", "rejected guess: Castor 40%", 2, True)
    image = painter.paint(live(PUBLISHED, beside))
    assert tuple(image[270, 300]) != tuple(image[270, 699])


def test_a_vehicle_has_a_trail_of_limited_length(painter: Painter) -> None:
    color = PALETTE[1]
    behind = (100, 320, 280, 340)  # the trail of the lower edge's center
    for step in range(20):
        moved = (BOX[0] - 200 + 10 * step, BOX[1], BOX[2] - 200 + 10 * step, BOX[3])
        image = painter.paint(live(LiveTrack(1, moved, None, None, "", 0, True), time_s=step / 10))
    assert has(image, color, behind)
    assert not has(painter.paint(live(PUBLISHED, time_s=60.0)), color, behind)


def test_ignored_objects_are_drawn_with_the_reason(painter: Painter) -> None:
    frame, empty = live(ignored=(Ignored((600, 100, 640, 120), "small"),)), live()
    changed = drawn(painter.paint(frame), painter.paint(empty))
    rows, columns = np.nonzero(changed)
    assert columns.min() >= 595 and columns.max() <= 700
    assert rows.min() >= 95 and 122 < rows.max() <= 145  # the reason is below the box


def test_an_ignored_part_of_a_vehicle_is_not_drawn_over_it(painter: Painter) -> None:
    plain = painter.paint(live(PUBLISHED))
    wheel, beside = Ignored((330, 300, 370, 345), "small"), Ignored((490, 250, 560, 300), "small")
    assert not drawn(painter.paint(live(PUBLISHED, ignored=(wheel,))), plain).any()
    assert drawn(painter.paint(live(PUBLISHED, ignored=(beside,))), plain).any()


def test_zones_are_outlined_and_excluded_ones_hatched() -> None:
    zones = (parse_zone("gate=0.5,0.4 0.9,0.4 0.9,0.9 0.5,0.9"), parse_zone("exclude=0,0 0.5,0.3"))
    plain = Painter(CameraConfig()).paint(live())
    changed = drawn(Painter(CameraConfig(zones=zones)).paint(live()), plain)
    assert changed[180:400, 400].all()  # the left edge of the gate
    assert not changed[260:380, 450:700].any()
    assert 0.02 < changed[60:130, 20:390].mean() < 0.5


def test_the_square_shows_min_area() -> None:
    frame = live(size_wh=(1000, 1000))
    changed = drawn(Painter(CameraConfig(min_area=0.04)).paint(frame), frame.frame.image_bgr)
    columns = np.nonzero(changed[700:900, :400].any(axis=0))[0]
    assert columns.max() - columns.min() == pytest.approx(200, abs=6)
    fixed = CameraConfig(min_area=0.04, locate="zone", zones=(parse_zone("0,0 1,1"),))
    assert not drawn(Painter(fixed).paint(frame), frame.frame.image_bgr)[700:900, 100:400].any()


@pytest.mark.parametrize("size_wh", [(1, 1), (64, 48), (320, 180), (1080, 1920), (3840, 2160)])
@pytest.mark.parametrize("name", ["Škoda Octavia 2020", "比亚迪 汉 🚗", "a\nb\x1b[31m\x00", "x" * 500, ""])
def test_any_name_is_drawn_on_a_frame_of_any_size(size_wh: tuple[int, int], name: str) -> None:
    painter = Painter(CameraConfig(zones=(parse_zone("0,0 1,1"), parse_zone("exclude=5000,0 6000,9"))))
    track = LiveTrack(1, (0, 0, *size_wh), name, "year", "90%", 1, True)
    image = painter.paint(live(track, size_wh=size_wh, ignored=(Ignored((0, 0, *size_wh), "zone"),)))
    assert max(image.shape) >= 640
    assert image.shape[0] * size_wh[0] == image.shape[1] * size_wh[1]


def test_drawing_adapts_to_a_change_of_the_frame_size(painter: Painter) -> None:
    painter.paint(live(PUBLISHED))
    image = painter.paint(live(PUBLISHED, size_wh=(1280, 720)))
    assert tuple(image[270, 300]) == PALETTE[1]


def test_labels_of_neighbors_do_not_cover_one_another() -> None:
    image = np.zeros((450, 800, 3), np.uint8)
    labels = Labels(image, 12)
    for left, color in zip((360, 300, 240), PALETTE, strict=False):  # only flush right has the last one room
        labels.add_to_box(["Castor Red Sedan 2020", "93%"], (left, 200, left + 40, 220), color)
    labels.draw()
    assert len({int((image == color).all(axis=2).sum()) for color in PALETTE[:3]}) == 1
