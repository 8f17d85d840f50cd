"""Zones: polygons in the picture, as a user writes them and as locators need them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.runtime.background import Mask, small_size
from twincar_edge.runtime.boxes import Box, area

Zone = tuple[tuple[float, float], ...]


def parse_zone(text: str) -> Zone:
    """Read a polygon from `x,y x,y x,y …`, in pixels or, where every number is at most 1, as shares of the frame.

    Two points are the corners of a rectangle.

    Raises:
        InputError: the text is anything else.
    """
    problem = f'a zone is "x,y x,y x,y" in pixels, or in shares of the frame from 0 to 1, found {text!r}'
    try:
        points = tuple((float(x), float(y)) for x, y in (pair.split(",") for pair in text.split()))
    except ValueError as error:
        raise InputError(problem) from error
    if len(points) < 2 or not all(0 <= number < 1e6 for point in points for number in point):
        raise InputError(problem)
    if len(points) == 2:
        (left, top), (right, bottom) = points
        points = ((left, top), (right, top), (right, bottom), (left, bottom))
    if cv2.contourArea(np.array(points, np.float32)) <= 0:
        raise InputError(f"the zone {text!r} has no area")
    return points


def regions(image_bgr: NDArray[np.uint8], zones: tuple[Zone, ...]) -> list[Box]:
    """Return each zone's bounding box in pixels of the image, or one box of the whole image where there are no zones.

    Raises:
        InputError: a zone lies outside the image.
    """
    rows, columns = image_bgr.shape[:2]
    if not zones:
        return [(0, 0, columns, rows)]
    return [_bounding_box(zone, columns, rows) for zone in zones]


def masks(image_bgr: NDArray[np.uint8], zones: tuple[Zone, ...]) -> list[Mask]:
    """Return each zone (or the whole frame) as bool [h, w] of the background model's small picture."""
    rows, columns = image_bgr.shape[:2]
    width, height = small_size(image_bgr)
    if not zones:
        return [np.ones((height, width), np.bool_)]
    found = []
    for zone in zones:
        mask = np.zeros((height, width), np.uint8)
        points = _in_pixels(zone, columns, rows) * (width / columns, height / rows)
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
        found.append(mask > 0)
    return found


def _in_pixels(zone: Zone, columns: int, rows: int) -> NDArray[np.float64]:
    points = np.array(zone, np.float64)
    return points * (columns, rows) if points.max() <= 1.0 else points


def _bounding_box(zone: Zone, columns: int, rows: int) -> Box:
    points = _in_pixels(zone, columns, rows)
    left, top = np.floor(points.min(axis=0)).astype(int)
    right, bottom = np.ceil(points.max(axis=0)).astype(int)
    box = (int(left), int(top), min(int(right), columns), min(int(bottom), rows))
    if area(box) < 1:
        raise InputError(f"the zone {zone} lies outside the frame, which is {columns} by {rows} pixels")
    return box
