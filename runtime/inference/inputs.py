"""Converts the images and boxes that Python users pass: files, encoded bytes, arrays, PIL images, detectors' results.

PIL, supervision, ultralytics and torch are not imported; their objects are recognized by their attributes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from twincar_edge.errors import InputError
from twincar_edge.images import decode_image, read_image


class PilImage(Protocol):
    """The used part of `PIL.Image.Image`."""

    @property
    def mode(self) -> str:
        """Return the pixel format, such as "RGB"."""

    def convert(self, mode: str) -> Any:
        """Return a copy in another pixel format."""

    def getexif(self) -> Any:
        """Return the EXIF tags, by number."""


class HasXyxy(Protocol):
    """The used part of `supervision.Detections` and of the `boxes` of an ultralytics `Results`."""

    @property
    def xyxy(self) -> Any:
        """Return left, top, right, bottom in pixels, [N, 4]."""


class HasBoxes(Protocol):
    """The used part of an ultralytics `Results`; `boxes` is None for models that detect no boxes."""

    @property
    def boxes(self) -> HasXyxy | None:
        """Return the boxes."""


ImageLike: TypeAlias = str | Path | bytes | bytearray | memoryview | NDArray[Any] | PilImage
BoxesLike: TypeAlias = ArrayLike | HasXyxy | HasBoxes

_EXIF_ORIENTATION = 0x0112
# EXIF orientation -> function that turns the stored picture upright.
_UPRIGHT: dict[int, Callable[[Any], Any]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_TO_BGR = {1: cv2.COLOR_GRAY2BGR, 4: cv2.COLOR_BGRA2BGR}
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def as_image_bgr(image: ImageLike, name: str = "image") -> NDArray[np.uint8]:
    """Return an image as `image_bgr`, uint8 [H, W, 3].

    Args:
        image: the path of a file; the bytes of an encoded image; an array uint8 [H, W, 3] in BGR, as OpenCV reads it,
            [H, W, 4] in BGRA or [H, W] gray; or a PIL image. Alpha is dropped, EXIF orientation is applied.
        name: the image's name in errors, unless it is a file.

    Raises:
        InputError: the image has another type, cannot be read, or is empty.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), name)
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(image, pil.Image):
        return _from_pil(image, name)
    found = type(image).__name__
    hint = "; pass its bytes" if hasattr(image, "read") else "; pass list(images)" if hasattr(image, "__next__") else ""
    if found == "NoneType":
        found, hint = "None", ", which cv2.imread returns for a file that it cannot read; pass the path"
    raise InputError(f"{name}: expected a path, bytes, a NumPy array or a PIL image, found {found}{hint}")


def as_boxes(boxes: BoxesLike, size_wh: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Return boxes in whole pixels inside an image, in the order given.

    A box is clipped to the image, then widened to whole pixels: left and top are rounded down, right and bottom up. The
    camera loop does the same with the boxes of its detector.

    Args:
        boxes: [N, 4] numbers, left, top, right, bottom in pixels; or a `supervision.Detections`, or an ultralytics
            `Results` or its `boxes`, whose tensors may be on a GPU.
        size_wh: the image's size in pixels.

    Raises:
        InputError: the shape is not [N, 4], or a box is not finite or has no area inside the image; with its index.
    """
    rows = _xyxy(boxes)
    if rows.size == 0:
        return []
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise InputError(f"boxes: expected [N, 4] (left, top, right, bottom in pixels), found {list(rows.shape)}")
    width, height = size_wh
    found: list[tuple[int, int, int, int]] = []
    for index, row in enumerate(rows):
        text = f"boxes[{index}] = ({', '.join(f'{value:g}' for value in row)})"
        if not np.isfinite(row).all():
            raise InputError(f"{text} is not finite")
        if row[0] >= row[2] or row[1] >= row[3]:
            raise InputError(f"{text} is empty: expected left < right and top < bottom, in pixels")
        left, top = np.floor(np.clip(row[:2], 0, size_wh))
        right, bottom = np.ceil(np.clip(row[2:], 0, size_wh))
        if left >= right or top >= bottom:
            raise InputError(f"{text} lies outside the image of {width}x{height} pixels")
        found.append((int(left), int(top), int(right), int(bottom)))
    return found


def _from_array(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if image.dtype != np.uint8 or channels not in (1, 3, 4) or image.size == 0:
        raise InputError(
            f"{name}: expected uint8 [H, W, 3] in BGR, [H, W, 4] or [H, W], found {image.dtype} {list(image.shape)}"
            + ("; pass list(images)" if image.ndim == 4 else "")
        )
    image = np.ascontiguousarray(image)  # OpenCV cannot read views such as rgb[..., ::-1]
    return image if channels == 3 else np.asarray(cv2.cvtColor(image, _TO_BGR[channels]), np.uint8)


def _from_pil(image: PilImage, name: str) -> NDArray[np.uint8]:
    if image.mode not in _EIGHT_BIT_MODES:
        raise InputError(  # converting them to RGB would clip their values to 255
            f"{name}: a PIL image of mode {image.mode!r} has no 8-bit colors; pass its file's path, or scale to 8 bits"
        )
    try:
        image_bgr = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
    except (OSError, ValueError, cv2.error) as error:  # PIL decodes a file at the first access to its pixels
        raise InputError(f"{name}: the PIL image cannot be decoded: {error}") from error
    upright = _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    return np.asarray(image_bgr if upright is None else upright(image_bgr), np.uint8)


def _xyxy(boxes: Any) -> NDArray[np.float64]:
    """Return the coordinates of boxes of any supported type."""
    if isinstance(boxes, list | tuple) and boxes and hasattr(boxes[0], "boxes"):
        raise InputError("boxes: expected the result for one image, found a list of results; pass results[0]")
    if hasattr(boxes, "boxes"):
        boxes = boxes.boxes
        if boxes is None:
            raise InputError("boxes: these results have no boxes; use a detection model")
    boxes = getattr(boxes, "xyxy", boxes)
    if hasattr(boxes, "detach"):  # a torch tensor
        boxes = boxes.detach().cpu().float().numpy()
    try:
        return np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            "boxes: expected [N, 4] numbers, a supervision.Detections or an ultralytics Results, found "
            + type(boxes).__name__
        ) from error
