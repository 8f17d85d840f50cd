"""Limits on the memory that a camera or video can make this process allocate.

The sender chooses the frame size, and a few kilobytes of video can claim gigabytes of memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError, Parameter
from twincar_edge.images import ImageError, decode_image
from twincar_edge.runtime.sources.capture import Capture

MAX_FRAME_PIXELS = 40_000_000  # 8K video has 33 million
MAX_SENT_BYTES = 20 * 2**20  # of one picture of an HTTP camera
AHEAD_BYTES = 100_000_000  # of decoded frames in a queue: four of 4K
_BYTES_PER_PIXEL = 4  # of one block of memory of FFmpeg: it decodes into planes, and OpenCV converts to 3 bytes
_MAPS = Path("/proc/self/maps")


def checked_size(capture: Capture, name: str, max_pixels: int) -> None:
    """Check the frame size that an open capture states against the limit, before decoding.

    Raises:
        InputError: the size exceeds the limit; the capture is released.
    """
    width, height = (capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > max_pixels:
        capture.release()
        raise too_large(f"{name} has frames of {width:.0f}x{height:.0f}, more than {max_pixels / 1e6:.3g} megapixels")


def too_large(what: str) -> InputError:
    """Return the error for pictures beyond the limit; it says how to raise the limit."""
    return InputError(f"{what}: ", Parameter("max_frame_megapixels"), " sets the limit")


def decode_sent(data: bytes, name: str, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a picture that a camera sent to `image_bgr`; None where it cannot be decoded.

    Raises:
        InputError: it is larger than the limit.
    """
    try:
        return decode_image(data, f"a picture of {name}", max_pixels=max_pixels)
    except ImageError as error:
        if error.problem == "too large":
            raise too_large(str(error)) from error
        return None


def limit_ffmpeg(max_pixels: int) -> None:
    """Make FFmpeg fail any single allocation that is larger than a frame of `max_pixels` needs.

    FFmpeg decodes a frame or two to find out what a stream is, before OpenCV reports its size, and keeps decoding when
    frames grow within a stream. OpenCV does not pass `max_pixels` to it. The limit holds for the
    process, and is never lowered: 160 MB, or what the largest `max_pixels` of a camera needs.
    """
    global _limit_bytes
    _limit_bytes = max(_limit_bytes, _BYTES_PER_PIXEL * max_pixels)
    try:
        maps = _MAPS.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return
    for library in sorted(set(re.findall(r"/.*/libavutil[^/\n]*\.so[^/\n]*$", maps, re.MULTILINE))):
        # https://ffmpeg.org/doxygen/trunk/group__lavu__mem__funcs.html
        with contextlib.suppress(OSError, AttributeError):  # replaced on disk while this process runs
            ctypes.CDLL(library).av_max_alloc(ctypes.c_size_t(_limit_bytes))


_limit_bytes = _BYTES_PER_PIXEL * MAX_FRAME_PIXELS
