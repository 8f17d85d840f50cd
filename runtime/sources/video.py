"""Frames out of a capture of OpenCV: a video file, a camera of this machine, or a network stream."""

from __future__ import annotations

import grp
import logging
import math
import os
import pwd
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from twincar_edge.errors import InputError
from twincar_edge.runtime.sources.base import Frame, Source, redact_url
from twincar_edge.runtime.sources.pace import Pace

logger = logging.getLogger(__name__)

NETWORK_TIMEOUT_MS = 5000  # for opening and for each frame; without it a lost camera blocks the read for ever
ASSUMED_FPS = 25.0  # where a file does not say
_TRIES = 8  # reads in a row that may fail before the rest of a video is given up
DEVICES = Path("/dev")

# FFmpeg writes a page on standard error for each damaged frame; what matters of it is counted and reported here. It
# reads this when the first capture opens, and a user's own setting stands.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class VideoFile(Source):
    """A video of known length, in the file system or behind a URL: nothing is lost, and time is the video's own."""

    def __init__(self, capture: cv2.VideoCapture, name: str, *, kind: str = "video", stride: int = 1) -> None:
        """Take an open capture."""
        super().__init__(name)
        self.kind = kind
        self.fps = _fps(capture)
        self._capture = capture
        self._stride = stride

    def __iter__(self) -> Iterator[Frame]:
        """Give every `stride`-th frame.

        The decoder leaves out what it cannot decode without a word; what is missing shows in the frames' times and in
        the count that the file states.

        Raises:
            InputError: not one frame can be decoded.
        """
        rate = self.fps or ASSUMED_FPS
        stated = _stated_frames(self._capture)
        read, index, first_ms, last_s = 0, -1, None, -math.inf
        try:
            while self._advance(stated - read):
                read += 1
                position_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                first_ms = position_ms if first_ms is None else first_ms
                time_s = (position_ms - first_ms) / 1000
                if not (math.isfinite(time_s) and time_s > last_s):
                    time_s = (index + 1) / rate  # a container without times, or one that repeats them or jumps back
                last_s = time_s = max(time_s, math.nextafter(last_s, math.inf))
                index = max(index + 1, round(time_s * rate))
                if (read - 1) % self._stride:
                    continue
                done, image = self._capture.retrieve()
                if done and image is not None:
                    yield Frame(index, time_s, np.asarray(image, np.uint8), self.name)
                else:
                    self._skip("undecodable frame", f"frame {index} of {self.name} cannot be decoded")
        finally:
            self.release()
        if read == 0:
            raise InputError(f"{self.name} opens as a video, but not one frame of it can be decoded")
        lost = stated - read
        # A container without an index only estimates its length, and a frame or two less at the end is no defect; where
        # the last frame came and some are missing, they are missing in the middle.
        if lost > (0 if index >= stated - 1 else max(2, stated // 100)):
            self._skip("undecodable frame", f"{lost} of the {stated} frames of {self.name} cannot be decoded", lost)

    def release(self) -> None:
        """Close the file."""
        self._capture.release()

    def _advance(self, frames_left: int) -> bool:
        """Go to the next frame that decodes; a failed read is the end only if no frame should be left."""
        return any(self._capture.grab() for _ in range(_TRIES if frames_left > 0 else 1))


class LiveVideo(Source):
    """A camera or network stream: frames come at its pace, time is counted from the start, jitter smoothed."""

    live = True

    def __init__(
        self,
        capture: cv2.VideoCapture,
        name: str,
        *,
        kind: str,
        stride: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take an open capture."""
        super().__init__(name)
        self.kind = kind
        self.fps = _fps(capture)
        self._capture = capture
        self._stride = stride
        self._monotonic = monotonic
        self._started = monotonic()

    def __iter__(self) -> Iterator[Frame]:
        """Give every `stride`-th frame until the stream ends, fails, or sends nothing for the time-out."""
        index = -1
        pace = Pace(self.fps)
        try:
            while self._capture.grab():
                index += 1
                time_s = pace(self._monotonic() - self._started)
                if index % self._stride:
                    continue
                done, image = self._capture.retrieve()
                if done and image is not None and image.size:
                    yield Frame(index, time_s, np.asarray(image, np.uint8), self.name)
                else:
                    self._skip("undecodable frame", f"frame {index} of {self.name} cannot be decoded")
        finally:
            self.release()
        logger.warning("%s sends no more frames", self.name)

    def release(self) -> None:
        """Give the camera or connection back."""
        self._capture.release()


def open_video_file(spec: str, stride: int) -> Source:
    """Open a video file.

    Raises:
        InputError: it is missing, may not be read, or is not a video that can be decoded.
    """
    path = Path(spec)
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputError(f"cannot read the video {path}: {error.strerror}") from error
    # Absolute, so that a file name with a colon is not taken for a protocol.
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if empty or not capture.isOpened():
        capture.release()
        raise InputError(
            f"cannot read the video {path}: it is no video that FFmpeg decodes, or it was cut off before its index"
        )
    return VideoFile(capture, spec, stride=stride)


def open_stream(spec: str, stride: int) -> Source:
    """Open an RTSP or HTTP stream; a plain video file behind HTTP is read as a file.

    Raises:
        InputError: nothing answers in time, or what answers is no video.
    """
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS]
    capture = cv2.VideoCapture(spec, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        capture.release()
        raise InputError(
            f"cannot open {redact_url(spec)}: nothing answers within {NETWORK_TIMEOUT_MS // 1000} s, it refuses the "
            "user or password, or it sends no video"
        )
    # A recording that is served by RTSP states its length too, and comes at its own pace like a camera.
    if _stated_frames(capture) > 0 and spec.lower().startswith("http"):
        return VideoFile(capture, spec, kind="stream", stride=stride)
    return LiveVideo(capture, spec, kind="stream", stride=stride)


def device_number(spec: str) -> int | None:
    """Return N of a camera's index or of what leads to `/dev/videoN`, None where `spec` is something else."""
    if re.fullmatch(r"\d{1,4}", spec):
        return int(spec)
    found = re.fullmatch(rf"{re.escape(str(DEVICES))}/video(\d{{1,4}})", str(Path(spec).resolve()))
    return int(found[1]) if found else None


def open_device(spec: str, stride: int) -> Source:
    """Open a camera of this machine, by its index, as `/dev/videoN`, or by a link to that (`/dev/v4l/by-id/…`).

    Raises:
        InputError: there is no such device, this user may not use it, or it gives no pictures.
    """
    number = device_number(spec)
    assert number is not None  # the table asked
    path = DEVICES / f"video{number}"
    _check_device(path)
    capture = cv2.VideoCapture(number, cv2.CAP_V4L2)
    if not capture.isOpened():
        capture.release()
        raise InputError(f"{path} gives no pictures: another program is using it, or it is not a capture device")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return LiveVideo(capture, str(path), kind="device", stride=stride)


def _check_device(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError as error:
        there = sorted((one for one in DEVICES.glob("video*") if re.fullmatch(r"video\d+", one.name)), key=_number)
        known = "found " + ", ".join(map(str, there)) if there else f"this machine has no {DEVICES}/video*"
        raise InputError(f"no device {path}: {known}") from error
    except PermissionError as error:
        group = _name_of(grp.getgrgid, path.stat().st_gid)
        user = _name_of(pwd.getpwuid, os.geteuid())
        raise InputError(
            f"permission denied on {path}, which belongs to the group {group}: "
            f"sudo usermod -aG {group} {user}, then log in again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot open {path}: {error.strerror}") from error


def _number(path: Path) -> int:
    return int(path.name.removeprefix("video"))


def _name_of(look_up: Callable[[int], tuple[object, ...]], number: int) -> str:
    """Return the name of a user or group, or its number where the system knows no name (in a container, often)."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def _fps(capture: cv2.VideoCapture) -> float | None:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if math.isfinite(fps) and 0 < fps < 1000 else None


def _stated_frames(capture: cv2.VideoCapture) -> int:
    """Return how many frames the container says it has, 0 where it does not know (OpenCV gives wild numbers then)."""
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and 0 < count < 2**53 else 0
