"""The ways in which a camera's crop is worse than a picture of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset, Sample
from twincar_edge.export.open_set.conditions import dimmed, from_light, to_light
from twincar_edge.export.open_set.pictures import changed_when_read
from twincar_edge.preprocess import Preprocess, prepare, shrink_to

SIZES = (224, 160, 112, 80, 64, 48)  # pixels of the shorter side
BLURS = (5, 11)  # pixels of the model's input
BOX_ERROR = 0.1  # of the box's width and height
JPEG_QUALITY = 30
LIGHT = 1 / 3
_Image = NDArray[np.uint8]
_Box = tuple[int, int, int, int]
_Move = Callable[[_Box, np.random.Generator], _Box]
_Change = Callable[[_Image, Preprocess, np.random.Generator], _Image]


@dataclass(frozen=True)
class CameraCondition:
    """One condition: `move` returns the box to cut instead of the right one, `change` alters the crop.

    `change` knows the model's preprocessing. Both may draw random numbers.
    """

    name: str
    change: _Change = lambda image_bgr, _, __: image_bgr
    move: _Move | None = None


def _tighten(box_xyxy: _Box, _: np.random.Generator) -> _Box:
    left, top, right, bottom = box_xyxy
    across, down = int((right - left) * BOX_ERROR), int((bottom - top) * BOX_ERROR)
    return left + across, top + down, right - across, bottom - down


def _shift(box_xyxy: _Box, random: np.random.Generator) -> _Box:
    left, top, right, bottom = box_xyxy
    signs = random.choice((-1, 1), 2).tolist()
    across, down = round(signs[0] * (right - left) * BOX_ERROR), round(signs[1] * (bottom - top) * BOX_ERROR)
    return left + across, top + down, right + across, bottom + down


def _reduce(side: int) -> _Change:
    return lambda image_bgr, _, __: shrink_to(image_bgr, side)


def _blur(pixels: int) -> _Change:
    """Return the blur of a motion along the rows while the shutter is open; light adds up, not pixel values."""

    def change(image_bgr: _Image, preprocess: Preprocess, _: np.random.Generator) -> _Image:
        seen = prepare(image_bgr, preprocess.model_copy(update={"color": "bgr"}))
        blurred = cv2.blur(to_light(seen), (pixels, 1), borderType=cv2.BORDER_REPLICATE)
        return from_light(np.asarray(blurred, np.float64))

    return change


def _compress(image_bgr: _Image, preprocess: Preprocess, _: np.random.Generator) -> _Image:
    data = cv2.imencode(".jpg", _near(image_bgr, preprocess), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _dim(image_bgr: _Image, preprocess: Preprocess, random: np.random.Generator) -> _Image:
    return dimmed(_near(image_bgr, preprocess), LIGHT, random)


def _near(image_bgr: _Image, preprocess: Preprocess) -> _Image:
    """Reduce an image to the model's pixels: more of them would average out blocks and noise."""
    return shrink_to(image_bgr, min(preprocess.size_wh))


CAMERA_CONDITIONS = (
    *(CameraCondition(f"{side} px", _reduce(side)) for side in SIZES),
    CameraCondition(f"box {BOX_ERROR:.0%} too tight", move=_tighten),
    CameraCondition(f"box shifted by {BOX_ERROR:.0%}", move=_shift),
    *(CameraCondition(f"motion blur of {pixels} px", _blur(pixels)) for pixels in BLURS),
    CameraCondition(f"JPEG quality {JPEG_QUALITY}", _compress),
    CameraCondition("a third of the light", _dim),
)


def seen_by_camera(dataset: Dataset, condition: CameraCondition, preprocess: Preprocess) -> Dataset:
    """Return the pictures of a data set under a condition, for a model of this preprocessing; the same each time."""

    def read(sample: Sample, random: np.random.Generator) -> _Image:
        return condition.change(_crop(sample, condition.move, random), preprocess, random)

    return changed_when_read(dataset, read)


def _crop(sample: Sample, move: _Move | None, random: np.random.Generator) -> _Image:
    """Return the crop of a sample, with its box moved."""
    if move is None:
        return sample.read()
    whole_bgr = replace(sample, box_xyxy=None).read()
    rows, columns = whole_bgr.shape[:2]
    left, top, right, bottom = sample.box_xyxy or (0, 0, columns, rows)
    inside = (max(left, 0), max(top, 0), min(right, columns), min(bottom, rows))
    return _cut(whole_bgr, move(inside, random))


def _cut(image_bgr: _Image, box_xyxy: _Box) -> _Image:
    """Cut out a box that overlaps the image; where it reaches beyond, the pixels at the border are repeated."""
    rows, columns = image_bgr.shape[:2]
    left, top, right, bottom = box_xyxy
    inside = image_bgr[max(top, 0) : bottom, max(left, 0) : right]
    beyond = (max(-top, 0), max(bottom - rows, 0), max(-left, 0), max(right - columns, 0))
    return np.asarray(cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE), np.uint8)
