"""Locates the vehicles in a frame: a table of locators, which map frames to boxes.

`whole` and `zone` report whether a vehicle is in a fixed part of the picture; `motion` finds the vehicles. All three
use the changes that `Background` detects. Single images have no background: there, `whole` and `zone` assume one
vehicle per image or zone, and `motion` does not work. `detector` runs a neural network, which needs no background and
costs more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError, Parameter, nearest
from twincar_edge.runtime.locating.background import Background, Mask
from twincar_edge.runtime.locating.boxes import Box, Detection, Ignored, gap, intersection, union
from twincar_edge.runtime.locating.boxes import area as box_area
from twincar_edge.runtime.locating.detector import VEHICLES, Detector
from twincar_edge.runtime.locating.pulled import PULL
from twincar_edge.runtime.locating.zones import Zone, counts, included, masks, regions
from twincar_edge.runtime.sources import Frame


@dataclass(frozen=True)
class LocateOptions:
    """Options of the locators.

    `zones`: where vehicles count, and where they do not. `min_area`: the smallest share of the frame that a vehicle's
    box covers; anything smaller is a person, an animal or noise, or too far away to be named. `presence`: the share of
    a zone (or frame) that must change before a vehicle counts as in it. `stills`: the source gives single images.
    `detector`: an open detector, for the locator of that name; `detect_classes` are the classes that it looks for, by
    name or number, or `any`, and `detect_score` is the score that starts a track.
    """

    zones: tuple[Zone, ...] = ()
    min_area: float = 0.01
    presence: float = 0.06
    stills: bool = False
    detector: Detector | None = None
    detect_classes: tuple[str, ...] = VEHICLES
    detect_score: float = 0.3


class Locator(ABC):
    """Finds the vehicles in frames that come in order.

    Attributes:
        moves: whether a vehicle's box travels with it. If so, a box that never moves is not a passing vehicle.
        uncovered: boxes, in the last frame, of places that turned out to be ground exposed by a departed vehicle.
            Tracks there are not vehicles.
        ignored: moving things and vehicles in the last frame that do not count, with the reason.
    """

    moves: bool = False

    def __init__(self) -> None:
        """Start with nothing uncovered or ignored."""
        self.uncovered: list[Box] = []
        self.ignored: list[Ignored] = []

    @abstractmethod
    def locate(self, frame: Frame) -> list[Detection]:
        """Return the vehicles in this frame, boxes in its pixels."""


class Still(Locator):
    """For single images: each holds one vehicle, which fills the frame or each of the zones."""

    def __init__(self, options: LocateOptions) -> None:
        """Take the zones; the default is the whole image."""
        super().__init__()
        self.options = options

    def locate(self, frame: Frame) -> list[Detection]:
        """Return the whole image, or each zone's bounding box."""
        return [Detection(box) for box in regions(frame.image_bgr, self.options.zones)]


class Presence(Locator):
    """For a fixed part of a stream's picture: a vehicle is there while enough of it differs from the background."""

    def __init__(self, options: LocateOptions) -> None:
        """Take the zones; the default is the whole frame."""
        super().__init__()
        self.options = options
        self._background = Background()

    def locate(self, frame: Frame) -> list[Detection]:
        """Return the bounding box of each zone in which a vehicle is now; the score is the share that changed."""
        changed = _without_specks(self._background.changed(frame.image_bgr, frame.time_s))
        keep_out = np.zeros_like(changed)
        found = []
        for box, inside in zip(
            regions(frame.image_bgr, self.options.zones), masks(frame.image_bgr, self.options.zones), strict=True
        ):
            there = changed & inside
            share = float(there.sum() / max(1, inside.sum()))
            if share < self.options.presence:
                continue
            if self._background.uncovered(there):
                self._background.absorb(_widened(there))
            else:
                found.append(Detection(box, share))
                keep_out |= there
        self._background.learn(_widened(keep_out))
        return found


class Motion(Locator):
    """For a fixed camera: each large blob that differs from the background."""

    moves = True

    def __init__(self, options: LocateOptions) -> None:
        """Take the least area, and the zones: only what lies inside them, and outside the excluded ones, counts."""
        super().__init__()
        self.options = options
        self._background = Background()

    def locate(self, frame: Frame) -> list[Detection]:
        """Return a box for each vehicle, with a little margin; the score is the share of the box that changed."""
        changed = self._background.changed(frame.image_bgr, frame.time_s)
        if self.options.zones:
            changed &= np.logical_or.reduce(masks(frame.image_bgr, self.options.zones))
        closed = np.asarray(cv2.morphologyEx(_as_image(_without_specks(changed)), cv2.MORPH_CLOSE, _SQUARE_7), np.uint8)
        blobs = _merge_fragments(_blobs(closed), reach=_REACH * max(closed.shape))
        large = [blob for blob in blobs if box_area(blob.box) >= self.options.min_area * closed.size]
        least_ignored = _LEAST_IGNORED * self.options.min_area * closed.size
        small = [blob for blob in blobs if blob not in large and box_area(blob.box) >= least_ignored]
        self.ignored = [
            Ignored(_box(blob, closed.shape, frame.image_bgr.shape), "small") for blob in small[:_MOST_IGNORED]
        ]
        vehicles = [blob for blob in large if not self._is_uncovered(blob, closed.shape)]
        self.uncovered = [_box(blob, closed.shape, frame.image_bgr.shape) for blob in large if blob not in vehicles]
        keep_out = np.zeros(closed.shape, np.uint8)
        for blob in vehicles:
            # The hull, so that a roof of the road's own gray, which the mask has lost, is not learned either.
            cv2.fillConvexPoly(keep_out, cv2.convexHull(np.concatenate(blob.outlines)), 1)
        self._background.learn(_widened(keep_out > 0))
        return [
            Detection(_box(blob, closed.shape, frame.image_bgr.shape), min(1.0, blob.pixels / box_area(blob.box)))
            for blob in vehicles
        ]

    def _is_uncovered(self, blob: _Blob, shape: tuple[int, ...]) -> bool:
        """Return whether the blob is ground exposed by a departed vehicle; if so, add it to the background."""
        filled = np.zeros(shape, np.uint8)
        cv2.drawContours(filled, blob.outlines, -1, 1, cv2.FILLED)
        mask = np.asarray(filled > 0, np.bool_)
        if not self._background.uncovered(mask):
            return False
        self._background.absorb(_widened(mask))
        return True


class Detecting(Locator):
    """For any camera, and for single images with any number of vehicles: what a detector finds."""

    moves = True

    def __init__(self, options: LocateOptions, detector: Detector) -> None:
        """Take the options: classes, minimum area and zones. Only vehicles inside the zones count.

        Raises:
            InputError: the detector does not have one of the classes.
        """
        super().__init__()
        self.options = options
        self._detector = detector
        self._class_ids = detector.class_ids(options.detect_classes)

    def locate(self, frame: Frame) -> list[Detection]:
        """Return a box for each vehicle; for streams, include low scores, which can continue a track."""
        options, (rows, columns) = self.options, frame.image_bgr.shape[:2]
        least = options.detect_score * (1.0 if options.stills else _GOES_ON)
        found: list[Detection] = []
        self.ignored = []
        for detection in self._detector.detect(frame.image_bgr, self._class_ids, least):
            box = detection.box_xyxy
            if box_area(box) < options.min_area * rows * columns:
                self.ignored.append(Ignored(box, "small"))
            elif not counts(box, (columns, rows), options.zones):
                self.ignored.append(Ignored(box, "zone"))
            else:
                found.append(replace(detection, begins=detection.score >= options.detect_score))
        return found


def _whole(options: LocateOptions) -> Locator:
    if included(options.zones):
        raise InputError(
            Parameter("locate", "whole"),
            " covers the whole frame and accepts no zones: use ",
            Parameter("locate", "zone"),
        )
    return Still(options) if options.stills else Presence(options)


def _zone(options: LocateOptions) -> Locator:
    if not included(options.zones):
        raise InputError(Parameter("locate", "zone"), " needs a polygon: set ", Parameter("zones"))
    return Still(options) if options.stills else Presence(options)


def _motion(options: LocateOptions) -> Locator:
    if options.stills:
        raise InputError(
            Parameter("locate", "motion"),
            " needs a video or a camera, not single images: use ",
            Parameter("locate", "whole"),
        )
    return Motion(options)


def _detector(options: LocateOptions) -> Locator:
    if options.detector is None:
        raise InputError(
            Parameter("locate", "detector"),
            f" needs a detector: get one with {PULL}, or name an ONNX file of YOLOX with ",
            Parameter("detector"),
        )
    return Detecting(options, options.detector)


LOCATORS: dict[str, Callable[[LocateOptions], Locator]] = {
    "whole": _whole,
    "zone": _zone,
    "motion": _motion,
    "detector": _detector,
}


def make_locator(name: str, options: LocateOptions) -> Locator:
    """Return the locator of that name.

    Raises:
        InputError: there is no such locator, or the options do not fit it or the source.
    """
    if name not in LOCATORS:
        raise InputError(f"no locator {name!r}: {nearest(name, tuple(LOCATORS))}")
    return LOCATORS[name](options)


# --- blobs ---

_SQUARE_3 = np.ones((3, 3), np.uint8)
_SQUARE_5 = np.ones((5, 5), np.uint8)
_SQUARE_7 = np.ones((7, 7), np.uint8)
_REACH = 0.04  # of the picture's longer side: fragments of one vehicle lie that near
_FRAGMENT = 1 / 3  # of the larger one's area: two boxes of like size are two vehicles, however near
_GOES_ON = 1 / 3  # of the score that begins a track: a detector flickers, and a vehicle does not
_MOST_IGNORED = 10  # the most small things per frame, largest first: snow must not slow down the loop
_LEAST_IGNORED = 0.1  # of the least area: what is smaller is a leaf or noise
_MARGIN = 0.02  # of the box's side; a classifier was trained on crops that cut nothing off


@dataclass(frozen=True, eq=False)
class _Blob:
    """A connected change: its box in the small picture, its pixels, its outlines."""

    box: Box
    pixels: float
    outlines: tuple[NDArray[np.int32], ...]


def _blobs(mask: NDArray[np.uint8]) -> list[_Blob]:
    found = []
    for outline in cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
        left, top, width, height = cv2.boundingRect(outline)
        points = np.asarray(outline, np.int32)
        found.append(_Blob((left, top, left + width, top + height), cv2.contourArea(outline), (points,)))
    return sorted(found, key=lambda blob: box_area(blob.box), reverse=True)


def _merge_fragments(blobs: list[_Blob], reach: float) -> list[_Blob]:
    """Join each small blob to a larger one that lies within `reach` pixels, largest first."""
    merged: list[_Blob] = []
    for blob in blobs:
        for place, larger in enumerate(merged):
            small = box_area(blob.box) < _FRAGMENT * box_area(larger.box) and gap(blob.box, larger.box) <= reach
            if small or intersection(blob.box, larger.box) > 0.5 * box_area(blob.box):
                merged[place] = _Blob(
                    union(larger.box, blob.box), larger.pixels + blob.pixels, larger.outlines + blob.outlines
                )
                break
        else:
            merged.append(blob)
    return merged


def _box(blob: _Blob, small_shape: tuple[int, ...], shape: tuple[int, ...]) -> Box:
    """Return the blob's box in pixels of the frame, with its margin."""
    down, across = shape[0] / small_shape[0], shape[1] / small_shape[1]
    left, top, right, bottom = blob.box[0] * across, blob.box[1] * down, blob.box[2] * across, blob.box[3] * down
    more_x, more_y = _MARGIN * (right - left), _MARGIN * (bottom - top)
    return (
        max(0, int(left - more_x)),
        max(0, int(top - more_y)),
        min(shape[1], int(np.ceil(right + more_x))),
        min(shape[0], int(np.ceil(bottom + more_y))),
    )


def _as_image(mask: Mask) -> NDArray[np.uint8]:
    return mask.astype(np.uint8)


def _without_specks(mask: Mask) -> Mask:
    return np.asarray(cv2.morphologyEx(_as_image(mask), cv2.MORPH_OPEN, _SQUARE_3) > 0, np.bool_)


def _widened(mask: Mask) -> Mask:
    """Return the mask with a rim of two pixels, for the soft edge that the threshold cut off."""
    return np.asarray(cv2.dilate(_as_image(mask), _SQUARE_5) > 0, np.bool_)
