"""Annotates a frame: vehicles with their answers so far, zones, and ignored things.

A vehicle is gray until an event of it was published; then it has a color by its number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.draw import (
    BOLD,
    INK,
    PALETTE,
    Color,
    draw_box,
    draw_label,
    fit_text,
    label_size,
    type_size,
)
from twincar_edge.errors import one_line
from twincar_edge.preprocess import resize
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.inference.answers import UNKNOWN
from twincar_edge.runtime.locating.boxes import Box, Ignored, area, intersection
from twincar_edge.runtime.locating.zones import Zone, in_pixels
from twincar_edge.runtime.loop.answering import LiveFrame, LiveTrack
from twincar_edge.wording import counted

MIN_LONG_SIDE = 640  # pixels: smaller frames are enlarged, or a name would hide what it names
TRAIL_S = 3.0
_FIXED_PLACES = ("zone", "whole")  # locators that look at a part of the picture, however small
_LIGHT: Color = (225, 225, 225)
_UNPUBLISHED: Color = (176, 170, 166)

Image = NDArray[np.uint8]


class Painter:
    """Draws the frames of one camera, in order; it keeps the vehicles' paths."""

    def __init__(self, camera: CameraConfig) -> None:
        """Take the camera's configuration."""
        self._camera = camera
        self._trails: dict[int, deque[tuple[float, tuple[int, int]]]] = {}
        self._scenery = _Scenery(camera)

    def paint(self, live: LiveFrame) -> Image:
        """Return the frame with everything drawn onto it: a new uint8 [H, W, 3], larger than a small frame."""
        image, factor = enlarged(live.frame.image_bgr, MIN_LONG_SIDE)
        size = type_size(image)
        self._scenery.draw(image, size)
        for ignored in live.ignored:
            if not any(_is_part(ignored, track) for track in live.tracks):
                _draw_ignored(image, ignored, factor, size)
        tracks = [(track, _scaled(track.box_xyxy, factor)) for track in live.tracks]
        self._follow(tracks, live.frame.time_s)
        for track, box in tracks:
            self._draw_trail(image, track, size)
            draw_box(image, box, color_of(track), line_width(size) if track.published else thin_width(size))
        labels = Labels(image, size)
        labels.add_to_corner(_caption(live))
        # The nearest one first: its label gets the best place, and lies on top where there is no room for all.
        for track, box in sorted(tracks, key=lambda one: one[1][3], reverse=True):
            labels.add_to_box(_label_of(track), box, color_of(track))
        labels.draw()
        return image

    def _follow(self, tracks: Sequence[tuple[LiveTrack, Box]], time_s: float) -> None:
        """Extend the vehicles' paths, and drop old positions."""
        for track, (left, _, right, bottom) in tracks:
            self._trails.setdefault(track.id, deque()).append((time_s, ((left + right) // 2, bottom - 1)))
        for number, trail in list(self._trails.items()):
            while trail and trail[0][0] < time_s - TRAIL_S:
                trail.popleft()
            if not trail:
                del self._trails[number]

    def _draw_trail(self, image: Image, track: LiveTrack, size: int) -> None:
        points = np.array([point for _, point in self._trails[track.id]], np.int32)
        for color, width in ((INK, line_width(size) + 2), (color_of(track), line_width(size))):
            cv2.polylines(image, [points], False, color, width, cv2.LINE_AA)


def enlarged(image_bgr: Image, long_side: int) -> tuple[Image, int]:
    """Return a copy by a whole factor whose longer side is `long_side` pixels or more, and that factor."""
    rows, columns = image_bgr.shape[:2]
    factor = max(1, -(-long_side // max(rows, columns)))
    copy = image_bgr.copy() if factor == 1 else resize(image_bgr, (columns * factor, rows * factor), "cubic")
    return copy, factor


def color_of(track: LiveTrack) -> Color:
    """Return the color of a vehicle: gray until an event of it was published."""
    return PALETTE[track.id % len(PALETTE)] if track.published else _UNPUBLISHED


def line_width(size: int) -> int:
    """Return the line width, in pixels, for that font size."""
    return max(2, round(size / 7))


def thin_width(size: int) -> int:
    """Return the width, in pixels, of unobtrusive lines."""
    return max(1, size // 12)


class _Scenery:
    """The static overlay for a frame size: zones and the minimum area. Drawn once, then copied."""

    def __init__(self, camera: CameraConfig) -> None:
        self._camera = camera
        self._layer = np.zeros((0, 0, 3), np.uint8)
        self._mask = np.zeros((0, 0), np.uint8)

    def draw(self, image: Image, size: int) -> None:
        if self._layer.shape != image.shape:
            # Pixels that are equal on black and on white are the opaque ones.
            self._layer, white = np.zeros_like(image), np.full_like(image, 255)
            for ground in (self._layer, white):
                draw_zones(ground, self._camera.zones, size)
                if self._camera.locate not in _FIXED_PLACES:
                    _draw_min_area(ground, self._camera.min_area, size)
            self._mask = np.where((self._layer == white).all(axis=2), 255, 0).astype(np.uint8)
        cv2.copyTo(self._layer, self._mask, image)


def draw_zones(image_bgr: Image, zones: Sequence[Zone], size: int) -> None:
    """Draw zones onto the image with their names, and excluded ones hatched; `size` is the type's, in pixels."""
    rows, columns = image_bgr.shape[:2]
    width = line_width(size)
    for zone in zones:
        outline = np.round(in_pixels(zone, columns, rows)).astype(np.int32)
        if zone.exclude:
            _hatch(image_bgr, outline, 2 * size, thin_width(size))
        for color, broad in ((INK, width + 2), (_LIGHT, width)):
            cv2.polylines(image_bgr, [outline], True, color, broad)
        name = "excluded" if zone.exclude else (zone.name or "zone")
        wide, high = label_size([name], size)
        top, left = min((int(y), int(x)) for x, y in outline)  # the highest corner
        corner = max(0, min(left, columns - wide)), max(0, min(top, rows - high))
        draw_label(image_bgr, [name], corner, size, INK if zone.exclude else _LIGHT)


def _hatch(image: Image, outline: NDArray[np.int32], step: int, width: int) -> None:
    """Draw parallel lines into a polygon."""
    inside, lines = np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(inside, [outline], 255)
    rows, columns = image.shape[:2]
    for x in range(-rows, columns, step):
        cv2.line(lines, (x, rows), (x + rows, 0), 255, width)
    cv2.copyTo(np.full_like(image, INK), cv2.bitwise_and(inside, lines), image)


def _draw_min_area(image: Image, min_area: float, size: int) -> None:
    """Draw a square of the least area that a vehicle's box covers into the lower left corner."""
    rows, columns = image.shape[:2]
    side, gap = max(1, round((min_area * rows * columns) ** 0.5)), size // 2
    box = (gap, rows - gap - side, gap + side, rows - gap)
    draw_box(image, box, _LIGHT, line_width(size))
    text = [f"min area {100 * min_area:.3g}%"]
    draw_label(image, text, (gap + side + gap, rows - gap - label_size(text, size)[1]), size, INK)


def _draw_ignored(image: Image, ignored: Ignored, factor: int, size: int) -> None:
    """Draw a thin box and the reason next to it."""
    box, small = _scaled(ignored.box_xyxy, factor), max(10, round(0.75 * size))
    draw_box(image, box, _LIGHT, thin_width(size))
    width, height = label_size([ignored.reason], small)
    corner = min(box[0] - 1, image.shape[1] - width), min(box[3] + 1, image.shape[0] - height)
    draw_label(image, [ignored.reason], corner, small, INK)


def _is_part(ignored: Ignored, track: LiveTrack) -> bool:
    """Return whether at least half of an ignored thing is in a vehicle's box: a moving wheel, the glint of a window."""
    return 2 * intersection(ignored.box_xyxy, track.box_xyxy) >= area(ignored.box_xyxy)


class Labels:
    """Places labels without overlap, as far as there is room."""

    def __init__(self, image: Image, size: int) -> None:
        self._image = image
        self._size = size
        self._placed: list[tuple[list[str], Box, Color]] = []

    def add_to_corner(self, lines: list[str]) -> None:
        """Place a label into the lower right corner."""
        rows, columns = self._image.shape[:2]
        width, height = label_size(lines, self._size)
        self._placed.append((lines, self._box(lines, columns - width, rows - height), INK))

    def add_to_box(self, lines: list[str], box: Box, ground: Color) -> None:
        """Place a label above the box, below it or inside, flush left or right, where it covers the least of others."""
        rows, columns = self._image.shape[:2]
        lines = [fit_text(line, columns - self._size, self._size, BOLD) for line in lines]
        width, height = label_size(lines, self._size)
        lefts = [max(0, min(left, columns - width)) for left in (box[0] - 1, box[2] + 1 - width)]
        tops = (box[1] - height - 1, box[3] + 1, box[1], box[3] - height)
        places = [self._box(lines, left, top) for left in lefts for top in tops if 0 <= top <= rows - height]
        places = places or [self._box(lines, lefts[0], max(0, min(box[1], rows - height)))]
        best = min(places, key=lambda place: sum(intersection(place, other) for _, other, _ in self._placed))
        self._placed.append((lines, best, ground))

    def draw(self) -> None:
        """Draw them, the first one last."""
        for lines, (left, top, _, _), ground in reversed(self._placed):
            draw_label(self._image, lines, (left, top), self._size, ground)

    def _box(self, lines: list[str], left: int, top: int) -> Box:
        width, height = label_size(lines, self._size)
        return left, top, left + width, top + height


def _label_of(track: LiveTrack) -> list[str]:
    """Return a vehicle's number and the answer so far."""
    if track.name is None:
        return [f"{track.id}"]
    crops = counted(track.crops, "crop")
    level = "" if track.level == UNKNOWN else f"{track.level}  "
    return [f"{track.id}  {one_line(track.name)}", f"{level}{one_line(track.certainty)}  {crops}"]


def _caption(live: LiveFrame) -> list[str]:
    minutes, seconds = divmod(live.frame.time_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    return [f"{live.camera}  {hours}:{minutes:02}:{seconds:05.2f}  frame {live.frame.index}"]


def _scaled(box: Box, factor: int) -> Box:
    left, top, right, bottom = box
    return left * factor, top * factor, right * factor, bottom * factor
