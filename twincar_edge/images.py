"""Reading and writing single images. Image files are untrusted: each one is checked before use."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.files import write_bytes
from twincar_edge.image_headers import FORMATS, HeaderError, InvalidHeaderError, foreign_format, read_header

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# Unsupported image formats. In a folder they still count as images, so that each one is reported instead of skipped.
FOREIGN_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".dng"})
MAX_IMAGE_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 100_000_000
MAX_UPLOAD_PIXELS = 40_000_000  # limit for uploaded images

# Our error message suffices for a damaged file: silence OpenCV's log unless OPENCV_LOG_LEVEL is set for debugging.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

ImageProblem = Literal[
    "missing",
    "unreadable",
    "empty",
    "truncated",
    "damaged",
    "not an image",
    "too large",
    "bit depth",
    "transparent",
    "degenerate box",
]
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # as a path, which has single slashes
_DARK = 16  # the largest value of a picture that uses at most 12 of its 16 bits, in 8 bits


class ImageError(InputError):
    """One image is unusable; `problem` is its kind, for counting; the message describes it in one line."""

    def __init__(self, problem: ImageProblem, message: str) -> None:
        """Take the kind of problem, and a description in one line."""
        super().__init__(message)
        self.problem = problem


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[np.uint8]:
    """Decode an encoded image to `image_bgr`, uint8 [H, W, 3]; grayscale and alpha become BGR.

    16-bit images are reduced to the upper 8 bits, or to those below the largest value that a TIFF declares
    (SMaxSampleValue). A picture that uses at most 12 of its 16 bits without declaring it would become black, so it is
    rejected. Guessing the depth would give pictures of one camera different brightness.

    Args:
        data: the bytes of a JPEG, PNG, BMP, WebP or TIFF file.
        name: the image's name in errors.
        max_pixels: the size limit of the image, in pixels.

    Raises:
        ImageError: the bytes are empty, too many, truncated or not an image; the image is too large; or its samples
            are floating-point numbers, or use too few of their bits; or a TIFF has transparent parts.
    """
    if not data:
        raise ImageError("empty", f"{name} is empty")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError("too large", f"{name} is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    try:
        header = read_header(data)
    except InvalidHeaderError as error:
        raise ImageError("damaged", f"{name} was not decoded: {error}") from error
    except HeaderError as error:
        raise ImageError("truncated", f"{name} is cut off or damaged: {error}") from error
    if header is None:
        known = foreign_format(data)
        reason = f"is {known}, which is not supported: convert it to JPEG" if known else f"is not a {FORMATS} image"
        raise ImageError("not an image", f"{name} {reason}")
    width, height = header.size_wh
    if not width or not height:  # the decoder might read another size: OpenCV's TIFF decoder accepts signed types
        raise ImageError("damaged", f"{name} has no valid size: the {header.format} header gives {width}x{height}")
    if width * height > max_pixels:
        raise ImageError("too large", f"{name} is {width}x{height}, more than {max_pixels / 1e6:.3g} megapixels")
    if not header.complete:
        raise ImageError("truncated", f"{name} is cut off: the {header.format} image has no end")
    if header.floating:
        raise ImageError("bit depth", f"{name} has floating-point samples: convert it to 8 or 16 bits")
    declared = header.max_value if header.sample_bits == 16 else None
    if declared is not None and 0xFF <= declared < 0xFFFF:
        if 2 * width * height > max_pixels:
            raise ImageError("too large", f"{name} has 16 bits: at most {max_pixels / 2e6:.3g} megapixels")
        deep = _decode(data, name, header.format, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        return np.minimum(np.right_shift(deep, declared.bit_length() - 8), 255).astype(np.uint8)
    # libtiff multiplies colors of 8 bits by alpha; elsewhere alpha is left out, and the colors stay as they are.
    if header.alpha and header.sample_bits == 8:
        found = _decode(data, name, header.format, cv2.IMREAD_UNCHANGED)
        if found.ndim == 3 and found.shape[2] == 4 and found[..., 3].min() < 255:
            raise ImageError("transparent", f"{name} is a TIFF with transparent parts: convert it to PNG")
    image = np.asarray(_decode(data, name, header.format, cv2.IMREAD_COLOR), np.uint8)
    if header.sample_bits == 16 and image.max() <= _DARK:
        raise ImageError(
            "bit depth", f"{name} uses at most 12 of its 16 bits, and would be black: scale it to 16 bits, or use 8"
        )
    return image


def _decode(data: bytes, name: str, kind: str, flags: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError("damaged", f"{name} cannot be decoded: {getattr(error, 'err', error)}") from error
    if image is None:
        raise ImageError("damaged", f"{name} is a {kind} image that cannot be decoded")
    return image  # type: ignore[return-value]  # OpenCV's stubs allow any number


def read_image_bytes(path: Path) -> bytes:
    """Read an image file's bytes, not decoded.

    Raises:
        ImageError: the file is missing, may not be read, is a pipe or a device, or is larger than 64 MiB.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a device or pipe might never end
            raise ImageError("unreadable", f"cannot read {path}: it is a folder, a pipe or a device, not a file")
        if status.st_size > MAX_IMAGE_BYTES:
            raise ImageError("too large", f"{path} is larger than {MAX_IMAGE_BYTES >> 20} MiB")
        return path.read_bytes()
    except FileNotFoundError as error:
        reason = "it is a URL, not a file: download it first" if _URL.match(str(path)) else error.strerror
        raise ImageError("missing", f"cannot read {path}: {reason}") from error
    except OSError as error:
        raise ImageError("unreadable", f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a name with a NUL character or a lone surrogate, as a list of images may have
        raise ImageError("unreadable", f"cannot read {str(path)!r}: invalid file name") from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file to `image_bgr`, uint8 [H, W, 3].

    Raises:
        ImageError: the file is missing, may not be read, or fails `decode_image`'s checks.
    """
    return decode_image(read_image_bytes(path), str(path))


def write_image(path: Path, image_bgr: NDArray[np.uint8]) -> None:
    """Write `image_bgr` atomically, in the format of the path's suffix.

    Raises:
        InputError: the suffix names no image format, or the file cannot be written.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES - {".jfif"}:  # which OpenCV cannot write
        raise InputError(f"cannot write {path}: {path.suffix or 'no suffix'} is not an image format: use .jpg or .png")
    try:
        done, data = cv2.imencode(path.suffix, image_bgr)
    except cv2.error as error:
        raise InputError(f"cannot write {path}: {getattr(error, 'err', error)}") from error
    if not done:
        raise InputError(f"cannot write {path}: an image {list(image_bgr.shape)} does not fit the format")
    write_bytes(path, data.tobytes())
