"""Checks which cameras of this machine can be opened, and why others cannot."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

from twincar_edge.errors import TwincarError
from twincar_edge.runtime.selftest.diagnosis import Check
from twincar_edge.runtime.sources import Source, open_source
from twincar_edge.runtime.sources.base import size_of
from twincar_edge.runtime.sources.devices import DEVICES
from twincar_edge.runtime.sources.first_frame import TIMEOUT_S, NoFrameInTimeError, first_frame

# From linux/videodev2.h: the ioctl VIDIOC_QUERYCAP fills a v4l2_capability of 104 bytes. The node's own flags are at
# offset 88. A camera has the flag VIDEO_CAPTURE or VIDEO_CAPTURE_MPLANE.
_QUERYCAP = 0x80685600
_CAPABILITY_BYTES, _NODE_FLAGS_AT = 104, 88
_VIDEO_CAPTURE = 0x1 | 0x1000


def captures_video(path: Path) -> bool:
    """Return whether a device node captures video; True if the node cannot be queried.

    Not every node is a camera: a webcam has a second node for metadata, and a Raspberry Pi has a dozen for its codecs.
    """
    try:
        node = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return True  # opening it as a camera gives a better error
    try:
        answer = fcntl.ioctl(node, _QUERYCAP, bytes(_CAPABILITY_BYTES))
    except OSError:
        return True
    finally:
        os.close(node)
    (flags,) = struct.unpack_from("=I", answer, _NODE_FLAGS_AT)
    return bool(flags & _VIDEO_CAPTURE)


def check_cameras(
    devices: Path = DEVICES,
    open_camera: Callable[[str], Source] = open_source,
    is_camera: Callable[[Path], bool] = captures_video,
    timeout_s: float = TIMEOUT_S,
) -> list[Check]:
    """Open every camera of this machine and read one frame.

    A broken camera is a warning, not a failure: a run may use another camera, or only streams.

    Args:
        devices: the folder of the device nodes.
        open_camera: opens a camera, as `watch` does.
        is_camera: returns whether a node is a camera.
        timeout_s: the timeout for the first frame.
    """
    nodes = [path for path in devices.glob("video*") if re.fullmatch(r"video\d+", path.name)]
    nodes.sort(key=lambda path: int(path.name.removeprefix("video")))
    cameras = [path for path in nodes if is_camera(path)]
    if not cameras:
        return [Check(name="cameras", status="ok", found=f"none found ({devices}/video*); streams need none")]
    return [_check_camera(path, open_camera, timeout_s) for path in cameras]


def _check_camera(path: Path, open_camera: Callable[[str], Source], timeout_s: float) -> Check:
    name = f"camera {path}"
    try:
        frame, fps = first_frame(lambda: open_camera(str(path)), timeout_s=timeout_s)
    except NoFrameInTimeError as error:
        advice = "unplug it and plug it in again; close other programs that may use it"
        return Check(name=name, status="warn", found=str(error), advice=advice)
    except TwincarError as error:
        return Check(name=name, status="warn", found=str(error))  # the message includes the remedy
    width, height = size_of(frame)
    return Check(name=name, status="ok", found=f"{width}x{height}" + (f", {fps:g} fps" if fps else ""))
