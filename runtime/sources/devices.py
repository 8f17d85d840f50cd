"""Cameras of this machine, through V4L2."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import re
import threading
from collections.abc import Callable
from pathlib import Path

import cv2

from twincar_edge.errors import InputError
from twincar_edge.opencv_environment import check_opencv_environment
from twincar_edge.runtime.sources.base import Source
from twincar_edge.runtime.sources.bounds import MAX_FRAME_PIXELS, checked_size
from twincar_edge.runtime.sources.capture import Capture, nominal_fps, open_within
from twincar_edge.runtime.sources.live import LiveSource
from twincar_edge.runtime.sources.live_rules import LiveRules

logger = logging.getLogger(__name__)

DEVICES = Path("/dev")
SILENCE_S = 5  # without a frame; OpenCV reads its time-out when it waits for the first one
HUNG_S = 10.0  # for opening and for each frame; drivers have no timeout
_BUFFERS = 2  # one is decoded while the driver fills the other; with more, frames would wait in the driver

os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(SILENCE_S))


def device_number(spec: str) -> int | None:
    """Return N for a camera's index N or a path to `/dev/videoN`; None if `spec` is something else."""
    if re.fullmatch(r"\d{1,4}", spec):
        return int(spec)
    try:
        path = str(Path(spec).resolve())
    except (OSError, RuntimeError, ValueError):  # a symlink loop, or an invalid file name
        return None
    found = re.fullmatch(rf"{re.escape(str(DEVICES))}/video(\d{{1,4}})", path)
    return int(found[1]) if found else None


def is_device(spec: str) -> bool:
    """Return whether a specification names a local camera, plugged in or not."""
    path = Path(spec)
    unplugged = path.parent == DEVICES or path.is_relative_to(DEVICES / "v4l")
    return device_number(spec) is not None or (unplugged and not path.exists())


def open_device(
    spec: str,
    stride: int = 1,
    *,
    stop: threading.Event | None = None,
    size_wh: tuple[int, int] | None = None,
    keep_trying: bool = False,
    max_pixels: int = MAX_FRAME_PIXELS,
) -> Source:
    """Open a camera of this machine, by its index, as `/dev/videoN`, or by a link to that (`/dev/v4l/by-id/…`).

    Args:
        spec: which one. What a link leads to is looked up each time it is opened: a camera that was unplugged may come
            back under another number.
        stride: give only every Nth frame.
        stop: ends the iteration.
        size_wh: width and height to ask for, as MJPG, in which a USB camera gives large pictures at full rate; the
            camera gives what it can, and the log says what that is.
        keep_trying: if it cannot be opened now, retry as for a lost camera.
        max_pixels: refuse larger frames.

    Raises:
        InputError: there is no such device, this user may not use it, or it gives no pictures; not with `keep_trying`.
    """

    def connect() -> Capture:
        capture = _connect(spec, size_wh)
        checked_size(capture, name, max_pixels)
        return capture

    name = str(DEVICES / f"video{spec}") if re.fullmatch(r"\d+", spec) else spec
    opened = None
    if not keep_trying:
        opened = open_within(
            HUNG_S, connect, f"{name} does not open within {HUNG_S:g} s: unplug it and plug it in again"
        )
    rules = LiveRules(silence_s=SILENCE_S, hung_s=HUNG_S)
    return LiveSource(name, connect, kind="device", stride=stride, stop=stop, opened=opened, rules=rules)


def _connect(spec: str, size_wh: tuple[int, int] | None) -> Capture:
    number = device_number(spec)
    if number is None:
        raise InputError(f"{spec} does not lead to a {DEVICES}/videoN: not plugged in")
    path = DEVICES / f"video{number}"
    _check_device(path)
    check_opencv_environment()
    capture = cv2.VideoCapture(number, cv2.CAP_V4L2)
    if not capture.isOpened():
        capture.release()
        raise InputError(f"{path} gives no pictures: another program is using it, or it is not a capture device")
    configure(capture, str(path), size_wh)
    return capture


def configure(capture: cv2.VideoCapture, name: str, size_wh: tuple[int, int] | None) -> None:
    """Request MJPG in a size, if one is given, and log the format that the camera delivers."""
    capture.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)
    wish = ""
    if size_wh is not None:
        width, height = size_wh
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        wish = f" (asked for {width}x{height} MJPG)"
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    fourcc = "".join(chr(byte) for byte in code.to_bytes(4, "little") if 32 < byte < 127)
    fps = nominal_fps(capture)
    logger.info(
        "%s gives %dx%d%s%s%s",
        name,
        capture.get(cv2.CAP_PROP_FRAME_WIDTH),
        capture.get(cv2.CAP_PROP_FRAME_HEIGHT),
        f" {fourcc}" if fourcc else "",
        f" at {fps:g} frames a second" if fps else "",
        wish,
    )


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
    """Return the name of a user or group, or its number where it has no name (common in containers)."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
