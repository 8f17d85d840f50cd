"""OpenCV captures as the sources use them, and FFmpeg's settings for them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol

import cv2

from twincar_edge.errors import InputError
from twincar_edge.runtime.sources.base import redact_url
from twincar_edge.videos import open_capture

# OpenCV reads these when a capture opens; a user's own settings take precedence. FFmpeg logs a page to standard error
# for each damaged frame, sometimes with the URL and its password, so it is silenced; sources count and report failures.
# Only `redirects.py` follows HTTP redirects. RTSP uses TCP: over UDP a lost packet smears the picture, and many
# firewalls block it. Truncated pictures are discarded.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# By default, OpenCV ends a video after 4,096 packets of other streams in a row: a minute and a half of sound. The read
# timeout bounds a live stream, and the end of the file a recording.
os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", str(2**31 - 1))
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fflags;discardcorrupt|max_redirects;0")


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that sources use. `grab` and `retrieve` may raise `cv2.error`."""

    def isOpened(self) -> bool:  # noqa: D102
        ...

    def get(self, propId: int, /) -> float:  # noqa: D102
        ...

    def grab(self) -> bool:  # noqa: D102
        ...

    def retrieve(self) -> tuple[bool, Any]:  # noqa: D102
        ...

    def release(self) -> None:  # noqa: D102
        ...


def open_ffmpeg(url: str, *, open_timeout_ms: int, read_timeout_ms: int) -> cv2.VideoCapture:
    """Open a URL for reading at the sender's pace, with timeouts; `isOpened` tells whether it succeeded.

    It decodes in one thread: with N threads, FFmpeg returns a frame only after N - 1 newer ones.
    """
    return open_capture(
        url, redact_url(url),
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_timeout_ms,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_timeout_ms,
        cv2.CAP_PROP_N_THREADS, 1,
    )  # fmt: skip


def open_within(limit_s: float, open_capture: Callable[[], Capture], hangs: str) -> Capture:
    """Call `open_capture` in a separate thread, since a driver may block forever, and return its result.

    A capture that opens after the limit is released.

    Raises:
        InputError: it takes longer than `limit_s`, with the message `hangs`; or what `open_capture` raised.
    """
    opened: Future[Capture] = Future()

    def work() -> None:
        try:
            capture = open_capture()
        except BaseException as error:  # noqa: BLE001
            _settle(opened.set_exception, error)  # raised in the waiting thread
            return
        if not _settle(opened.set_result, capture):
            capture.release()

    threading.Thread(target=work, name="open a capture", daemon=True).start()
    try:
        return opened.result(limit_s)
    except TimeoutError as error:
        if opened.cancel():
            raise InputError(hangs) from error
        return opened.result()


def _settle(give: Callable[[Any], None], what: object) -> bool:
    """Set a future's result, unless the future was canceled."""
    try:
        give(what)
    except InvalidStateError:
        return False
    return True


def nominal_fps(capture: Capture) -> float | None:
    """Return the frames a second that a capture states, or None."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if math.isfinite(fps) and 0 < fps < 1000 else None


def estimated_frames(capture: Capture) -> int:
    """Return how many frames a recording has, 0 if unknown (OpenCV returns arbitrary numbers then).

    If the container does not state it, OpenCV multiplies duration and rate, which a gap or another stream makes wrong.
    """
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and 0 < count < 2**53 else 0


def codec_name(capture: Capture) -> str:
    """Return the codec's FourCC from the container, or "" if there is none."""
    fourcc = capture.get(cv2.CAP_PROP_FOURCC)
    letters = int(fourcc).to_bytes(4, "little") if math.isfinite(fourcc) and 0 < fourcc < 2**32 else b""
    name = "".join(chr(letter) for letter in letters if chr(letter).isalnum()).upper()
    return {"AV01": "AV1", "AVC1": "H264", "MPG2": "MPEG2"}.get(name, name)
