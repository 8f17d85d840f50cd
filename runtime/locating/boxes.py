"""Boxes in pixels, as (left, top, right, bottom) with right and bottom exclusive, and geometry on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Box = tuple[int, int, int, int]
AnyBox = Sequence[float]


@dataclass(frozen=True)
class Detection:
    """Where a vehicle is in one frame: `box_xyxy` in pixels of the frame, `score` between 0 and 1.

    `begins`: the score suffices to begin a track; otherwise it can only continue one. `kind`: the detector's class of
    the vehicle, one of `VEHICLE_KINDS`; None where the locator cannot tell.
    """

    box_xyxy: Box
    score: float = 1.0
    begins: bool = True
    kind: str | None = None


IgnoredReason = Literal["small", "zone"]
"""Why a locator ignores a thing: its box is below the minimum area, or it stands outside the counted zones."""


@dataclass(frozen=True)
class Ignored:
    """A thing that a locator found in one frame and ignored: its box in pixels of the frame, and why."""

    box_xyxy: Box
    reason: IgnoredReason


def area(box: AnyBox) -> float:
    """Return the area in square pixels, 0 for a box without inside."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(one: AnyBox, other: AnyBox) -> float:
    """Return the area that two boxes share."""
    return area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))


def iou(one: AnyBox, other: AnyBox) -> float:
    """Return intersection over union, between 0 and 1."""
    shared = intersection(one, other)
    whole = area(one) + area(other) - shared
    return shared / whole if whole > 0 else 0.0


def union(one: Box, other: Box) -> Box:
    """Return the smallest box that holds both."""
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def gap(one: AnyBox, other: AnyBox) -> float:
    """Return the distance between two boxes along the axis on which they are farther apart, 0 where they touch."""
    return max(0.0, one[0] - other[2], other[0] - one[2], one[1] - other[3], other[1] - one[3])


def center(box: AnyBox) -> tuple[float, float]:
    """Return the middle of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def diagonal(box: AnyBox) -> float:
    """Return the length of a box's diagonal in pixels."""
    return float(((box[2] - box[0]) ** 2 + (box[3] - box[1]) ** 2) ** 0.5)


def touches_border(box: AnyBox, size_wh: tuple[int, int], within: float = 2.0) -> bool:
    """Return whether a box ends at the frame's border, so that a part of the vehicle is probably outside."""
    return box[0] <= within or box[1] <= within or box[2] >= size_wh[0] - within or box[3] >= size_wh[1] - within
