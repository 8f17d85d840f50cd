"""The only code that turns an image into model input.

Training's evaluation, calibration, parity, benchmarks and the camera loop all call `prepare`. A second resize anywhere
else is a defect: a different resize alone changes answers. Mean and standard deviation are folded into the ONNX graph,
so that the model's input is the resized uint8 camera image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from twincar_edge.errors import InputError
from twincar_edge.records import Record

ResizeRule = Literal["squash", "letterbox", "center_crop"]
Interpolation = Literal["area", "pyramid", "linear", "cubic"]
ColorOrder = Literal["rgb", "bgr"]
Side = Annotated[int, Field(ge=8, le=4096)]
Channel = Annotated[float, Field(allow_inf_nan=False)]
PositiveChannel = Annotated[float, Field(gt=0, allow_inf_nan=False)]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LETTERBOX_GRAY = 114  # the usual padding value, from YOLO models

_MAX_COPIED_PIXELS = 3840 * 2160
_SHRINK = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
# INTER_AREA does not interpolate when enlarging: use linear instead.
_ENLARGE = {"area": cv2.INTER_LINEAR, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


class Preprocess(Record):
    """How an image becomes model input; part of the checkpoint and of the ONNX manifest.

    `size_wh` is in pixels. `mean` and `std` are in the unit of [0, 1] pixels, in the order of `color`, and are applied
    inside the graph. The default squashes the whole crop to a square, as TwinCar's `Resize((224, 224))` does.

    `interpolation` "area" averages all pixels that become one. "pyramid" is faster: it halves each axis while that is
    at least twice too long, then interpolates linearly, both in integers, with the same result on every processor.
    "linear" and "cubic" read too few pixels if they shrink an image by more than two, and alias.
    """

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    size_wh: tuple[Side, Side] = (224, 224)
    resize: ResizeRule = "squash"
    interpolation: Interpolation = "area"
    color: ColorOrder = Field("rgb", alias="colour")  # the spelling in files
    mean: tuple[Channel, Channel, Channel] = IMAGENET_MEAN
    std: tuple[PositiveChannel, PositiveChannel, PositiveChannel] = IMAGENET_STD


def prepare(image_bgr: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return the model's input for one image: uint8 [height, width, 3] in the model's color order, contiguous.

    An image that already has the model's size and color order may be returned without a copy.

    Args:
        image_bgr: uint8 [H, W, 3], as OpenCV decodes it.
        preprocess: size, resize rule, interpolation and color order of the model.

    Raises:
        InputError: the array is not a non-empty uint8 [H, W, 3] image.
    """
    if image_bgr.dtype != np.uint8 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.size == 0:
        raise InputError(f"expected a uint8 image [H, W, 3], found {image_bgr.dtype} {list(image_bgr.shape)}")
    rows, columns = image_bgr.shape[:2]
    place = placement((columns, rows), preprocess)
    (left, top, right, bottom), (x0, y0, x1, y1) = place.image_xyxy, place.input_xyxy
    resized = resize(image_bgr[top:bottom, left:right], (x1 - x0, y1 - y0), preprocess.interpolation)
    width, height = preprocess.size_wh
    if (x1 - x0, y1 - y0) != (width, height):
        canvas = np.full((height, width, 3), LETTERBOX_GRAY, np.uint8)
        canvas[y0:y1, x0:x1] = resized
        resized = canvas
    if preprocess.color == "rgb":  # copying a reversed view takes forty times as long
        return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), np.uint8)
    return np.ascontiguousarray(resized)


def prepare_batch(images_bgr: Sequence[NDArray[np.uint8]], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return `batch_nhwc`, uint8 [N, height, width, 3]: every image through `prepare`."""
    width, height = preprocess.size_wh
    batch_nhwc = np.empty((len(images_bgr), height, width, 3), np.uint8)
    for row, image_bgr in zip(batch_nhwc, images_bgr, strict=True):
        row[:] = prepare(image_bgr, preprocess)
    return batch_nhwc


def resize(
    image_bgr: NDArray[np.uint8], size_wh: tuple[int, int], interpolation: Interpolation = "area"
) -> NDArray[np.uint8]:
    """Resize an image: uint8 [H, W, 3] to [size_wh[1], size_wh[0], 3].

    Except for "pyramid", each axis is resized separately: OpenCV's INTER_AREA averages only when both axes shrink; if
    one shrinks and the other grows, it silently falls back to plain interpolation and aliases. So the shrinking axis is
    resized first, alone.
    """
    if interpolation == "pyramid":
        image_bgr = _halve(image_bgr, size_wh)
        return np.asarray(cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)
    width, height = size_wh
    rows, columns = image_bgr.shape[:2]
    shrunk = (min(width, columns), min(height, rows))
    if shrunk != (columns, rows):
        image_bgr = _shrink(image_bgr, shrunk, _SHRINK[interpolation])
    if shrunk != size_wh:
        image_bgr = cv2.resize(image_bgr, size_wh, interpolation=_ENLARGE[interpolation])  # type: ignore[assignment]
    return image_bgr


def shrink_to(image_bgr: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Return an image, uint8 [H, W, 3], with its shorter side reduced to `side_px`; a smaller one stays as it is.

    Pixels are averaged, as in a camera that is farther away.
    """
    rows, columns = image_bgr.shape[:2]
    scale = side_px / min(rows, columns)
    return image_bgr if scale >= 1 else resize(image_bgr, (round(columns * scale), round(rows * scale)), "area")


def _halve(image_bgr: NDArray[np.uint8], least_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Halve each axis, by averages of two neighbors, as long as it stays at least as long as in `least_wh`.

    An odd last row or column is left out: with it, the averages would drift along the axis, and alias.
    """
    while True:
        rows, columns = image_bgr.shape[:2]
        across, down = (2 if columns >= 2 * least_wh[0] else 1), (2 if rows >= 2 * least_wh[1] else 1)
        if across == down == 1:
            return image_bgr
        halved_wh = columns // across, rows // down
        even = image_bgr[: halved_wh[1] * down, : halved_wh[0] * across]
        if down == 1:  # the same averages, by OpenCV's kernel for blocks of 2x2: twice as fast in spite of the copy
            even = np.repeat(even, 2, axis=0)
        image_bgr = np.asarray(cv2.resize(even, halved_wh, interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)


def _shrink(image_bgr: NDArray[np.uint8], size_wh: tuple[int, int], interpolation: int) -> NDArray[np.uint8]:
    """Resize with OpenCV. INTER_AREA sums in float32 anyway, and is a quarter faster on float32 pixels.

    The result is identical, except if both axes shrink by whole factors: there OpenCV averages bytes as integers, which
    is fast, and rounds halves up. Large images are not copied: the copy takes four times their memory.
    """
    (rows, columns), (width, height) = image_bgr.shape[:2], size_wh
    whole_factors = columns % width == 0 and rows % height == 0
    if interpolation != cv2.INTER_AREA or whole_factors or rows * columns > _MAX_COPIED_PIXELS:
        return np.asarray(cv2.resize(image_bgr, size_wh, interpolation=interpolation), np.uint8)
    shrunk = cv2.resize(image_bgr.astype(np.float32), size_wh, interpolation=interpolation)
    return np.asarray(cv2.convertScaleAbs(shrunk), np.uint8)


@dataclass(frozen=True)
class Placement:
    """Which part of an image the model sees, and where that part lies in the model's input.

    Both boxes are left, top, right, bottom in pixels, the last two exclusive. Outside `input_xyxy` the input is
    padding; the model does not see the image outside `image_xyxy`.
    """

    image_xyxy: tuple[int, int, int, int]
    input_xyxy: tuple[int, int, int, int]


def placement(image_size_wh: tuple[int, int], preprocess: Preprocess) -> Placement:
    """Return where `prepare` places an image of this size in the input, to map input positions back to it."""
    return _RULES[preprocess.resize](image_size_wh, preprocess.size_wh)


def _squash(image_wh: tuple[int, int], size_wh: tuple[int, int]) -> Placement:
    return Placement((0, 0, *image_wh), (0, 0, *size_wh))


def _letterbox(image_wh: tuple[int, int], size_wh: tuple[int, int]) -> Placement:
    (columns, rows), (width, height) = image_wh, size_wh
    scale = min(width / columns, height / rows)
    inner_w, inner_h = min(width, max(1, round(columns * scale))), min(height, max(1, round(rows * scale)))
    left, top = (width - inner_w) // 2, (height - inner_h) // 2
    return Placement((0, 0, columns, rows), (left, top, left + inner_w, top + inner_h))


def _center_crop(image_wh: tuple[int, int], size_wh: tuple[int, int]) -> Placement:
    (columns, rows), (width, height) = image_wh, size_wh
    scale = max(width / columns, height / rows)
    crop_w, crop_h = min(columns, max(1, round(width / scale))), min(rows, max(1, round(height / scale)))
    left, top = (columns - crop_w) // 2, (rows - crop_h) // 2
    return Placement((left, top, left + crop_w, top + crop_h), (0, 0, width, height))


_Rule = Callable[[tuple[int, int], tuple[int, int]], Placement]
_RULES: dict[ResizeRule, _Rule] = {"squash": _squash, "letterbox": _letterbox, "center_crop": _center_crop}


def thumbnail(image_bgr: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a smaller copy: halved as often as possible, then interpolated.

    OpenCV averages 2x2 pixels many times faster than other block sizes. Use this only for images for people: model
    input comes from `prepare`.
    """
    width, height = size_wh
    while image_bgr.shape[1] >= 2 * width and image_bgr.shape[0] >= 2 * height:
        halved_wh = image_bgr.shape[1] // 2, image_bgr.shape[0] // 2
        image_bgr = np.asarray(cv2.resize(image_bgr, halved_wh, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_LINEAR), np.uint8)
