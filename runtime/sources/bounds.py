"""Limits on the memory that a camera or video can make this process allocate.

The sender chooses the frame size, and a few kilobytes of video can claim gigabytes of memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import threading
from collections.abc import Iterator
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
_MOST_BYTES_PER_PIXEL = 8  # four channels of 16 bits
_FREE_BYTES = 16 * 2**20  # a block of this size is always allowed: a plane of 4K in 16 bits, or a large packet
_MAPS = Path("/proc/self/maps")


def checked_size(capture: Capture, name: str, max_pixels: int) -> None:
    """Check the frame size that an open capture states against the limit, before decoding.

    Raises:
        InputError: the size exceeds the limit; the capture is released.
    """
    width, height = _stated_size(capture)
    if width * height > max_pixels:
        capture.release()
        raise too_large(f"{name} has frames of {width:.0f}x{height:.0f}, more than {max_pixels / 1e6:.3g} megapixels")


def _stated_size(capture: Capture) -> tuple[float, float]:
    return capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)


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


@contextlib.contextmanager
def limited_opening(max_pixels: int) -> Iterator[None]:
    """Limit each allocation of FFmpeg, while a capture opens, to what a frame of `max_pixels` needs.

    FFmpeg decodes a frame or two to examine a stream, before OpenCV reports its size. The limit is never below that of
    the default `max_pixels`: a stream with larger frames has to open so that its error can state the size, and OpenCV
    crashes if FFmpeg cannot allocate anything.
    """
    with _limit.needs(_BYTES_PER_PIXEL * max(max_pixels, MAX_FRAME_PIXELS)):
        yield


def limited(capture: Capture) -> Capture:
    """Return an open FFmpeg capture that limits each allocation, until released, to what its frames need.

    Frames may grow within a stream, and OpenCV neither reports it nor passes FFmpeg's `max_pixels` on. A stream whose
    frames grow a lot fails, and gets the limit for its new size when it is reopened.
    """
    return _Limited(capture)


@contextlib.contextmanager
def limited_frames(capture: Capture) -> Iterator[None]:
    """Limit each allocation of FFmpeg, within the context, to what the frames of an open capture need."""
    width, height = _stated_size(capture)
    with _limit.needs(max(_FREE_BYTES, int(_MOST_BYTES_PER_PIXEL * width * height))):
        yield


class _Limited:
    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.isOpened, self.get, self.grab, self.retrieve = (
            capture.isOpened, capture.get, capture.grab, capture.retrieve,
        )  # fmt: skip
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(limited_frames(capture))

    def release(self) -> None:
        self._capture.release()
        self._stack.close()


class _AllocationLimit:
    """The limit of a single allocation in FFmpeg, OpenCV's and PyAV's: the largest need of the process's captures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needs: list[int] = []

    @contextlib.contextmanager
    def needs(self, size_bytes: int) -> Iterator[None]:
        with self._lock:
            self._needs.append(size_bytes)
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._needs.remove(size_bytes)
                self._set()

    def _set(self) -> None:
        limit = max(self._needs, default=_BYTES_PER_PIXEL * MAX_FRAME_PIXELS)
        for library in _ffmpeg_libraries():
            with contextlib.suppress(OSError, AttributeError):  # replaced on disk while this process runs
                # https://ffmpeg.org/doxygen/trunk/group__lavu__mem__funcs.html
                ctypes.CDLL(library).av_max_alloc(ctypes.c_size_t(limit))


def _ffmpeg_libraries() -> list[str]:
    try:
        maps = _MAPS.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return []
    return sorted(set(re.findall(r"/.*/libavutil[^/\n]*\.so[^/\n]*$", maps, re.MULTILINE)))


_limit = _AllocationLimit()
