"""Zones: polygons in the picture; parsing, and conversion for the locators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, ValidationError, field_validator

from twincar_edge.errors import InputError
from twincar_edge.records import Settings, in_words
from twincar_edge.runtime.locating.background import Mask, small_size
from twincar_edge.runtime.locating.boxes import AnyBox, Box, area

EXCLUDE = "exclude"  # prefix that excludes a polygon on the command line, instead of a name

# Part of MQTT topics, file names and metric labels, so special characters are not allowed.
PlaceName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    in_words("up to 64 ASCII letters, digits and _ . -, the first a letter or digit"),
]
Coordinate = Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)]

_WHEELS = 0.05  # of a box's height: so far above its lower edge a vehicle touches the road, margin and shadow left out


class Zone(Settings):
    """A polygon: a place in the picture that counts, or with `exclude` one that does not.

    `points` are x and y in pixels or, where every number is at most 1, in shares of the frame; two points are the
    corners of a rectangle. `name` is what events call it.
    """

    points: Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(min_length=2, max_length=100)]
    name: PlaceName | None = None
    exclude: bool = False

    @field_validator("points")
    @classmethod
    def _has_area(cls, points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        if len(points) == 2:
            (left, top), (right, bottom) = points
            points = ((left, top), (right, top), (right, bottom), (left, bottom))
        if cv2.contourArea(np.array(points, np.float32)) <= 0:
            raise ValueError("the zone has no area")
        return points


def parse_zone(text: str) -> Zone:
    """Parse a zone in the command line's syntax: `x,y x,y x,y …`, `NAME=x,y …` or `exclude=x,y …`.

    Raises:
        InputError: the text has another form.
    """
    name, equals, polygon = text.rpartition("=")
    name = name.strip()
    problem = (
        f'a zone is "x,y x,y x,y" in pixels, or in shares of the frame from 0 to 1, with NAME= or {EXCLUDE}= before it '
        f"if you like, found {text!r}"
    )
    try:
        points = tuple((float(x), float(y)) for x, y in (pair.split(",") for pair in polygon.split()))
    except ValueError as error:
        raise InputError(problem) from error
    exclude = name == EXCLUDE
    try:
        return Zone.model_validate(
            {"points": points, "name": name if equals and not exclude else None, "exclude": exclude}
        )
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"the zone {text!r} has no area" if fault["type"] == "value_error" else problem) from error


def included(zones: Sequence[Zone]) -> list[Zone]:
    """Return the zones that count."""
    return [zone for zone in zones if not zone.exclude]


def zone_of(box_xyxy: AnyBox, size_wh: tuple[int, int], zones: Sequence[Zone]) -> str | None:
    """Return the name of the first zone that contains a vehicle; None if there is no such zone, or it has no name.

    A vehicle stands where the middle of its box's lower edge is, a twentieth of the box's height above it. Excluded
    zones are skipped.

    Args:
        box_xyxy: the vehicle's box in pixels of the frame.
        size_wh: the frame's size in pixels.
        zones: in order of precedence.
    """
    return next((zone.name for zone in included(zones) if _stands_in(box_xyxy, size_wh, zone)), None)


def counts(box_xyxy: AnyBox, size_wh: tuple[int, int], zones: Sequence[Zone]) -> bool:
    """Return whether a vehicle is in an included zone (or there are none), and not in an excluded one."""
    wanted = included(zones)
    return (not wanted or any(_stands_in(box_xyxy, size_wh, zone) for zone in wanted)) and not any(
        _stands_in(box_xyxy, size_wh, zone) for zone in zones if zone.exclude
    )


def regions(image_bgr: NDArray[np.uint8], zones: Sequence[Zone]) -> list[Box]:
    """Return the bounding box, in pixels of the image, of each zone that counts; of the whole image where none does.

    Raises:
        InputError: a zone lies outside the image.
    """
    rows, columns = image_bgr.shape[:2]
    return [_bounding_box(zone, columns, rows) for zone in included(zones)] or [(0, 0, columns, rows)]


def masks(image_bgr: NDArray[np.uint8], zones: Sequence[Zone]) -> list[Mask]:
    """Return each zone that counts, or the whole frame, without what is excluded.

    Each is a bool [h, w] of the background model's small picture.
    """
    rows, columns = image_bgr.shape[:2]
    width, height = small_size(image_bgr)

    def filled(zone: Zone) -> Mask:
        mask = np.zeros((height, width), np.uint8)
        points = in_pixels(zone, columns, rows) * (width / columns, height / rows)
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
        return mask > 0

    left_out = np.zeros((height, width), np.bool_)
    for zone in zones:
        if zone.exclude:
            left_out |= filled(zone)
    wanted = [filled(zone) for zone in included(zones)] or [np.ones((height, width), np.bool_)]
    return [mask & ~left_out for mask in wanted]


def _stands_in(box: AnyBox, size_wh: tuple[int, int], zone: Zone) -> bool:
    outline = in_pixels(zone, *size_wh).astype(np.float32)
    point = ((box[0] + box[2]) / 2, box[3] - _WHEELS * (box[3] - box[1]))
    return cv2.pointPolygonTest(outline, point, False) >= 0


def in_pixels(zone: Zone, columns: int, rows: int) -> NDArray[np.float64]:
    """Return a zone's points in pixels of a frame of that size, float64 [N, 2]."""
    points = np.array(zone.points, np.float64)
    return points * (columns, rows) if points.max() <= 1.0 else points


def _bounding_box(zone: Zone, columns: int, rows: int) -> Box:
    points = in_pixels(zone, columns, rows)
    left, top = np.floor(points.min(axis=0)).astype(int)
    right, bottom = np.ceil(points.max(axis=0)).astype(int)
    box = (int(left), int(top), min(int(right), columns), min(int(bottom), rows))
    if area(box) < 1:
        corners = " ".join(f"{x:g},{y:g}" for x, y in zone.points)
        raise InputError(f"the zone {zone.name or corners} lies outside the frame, which is {columns} by {rows} pixels")
    return box
