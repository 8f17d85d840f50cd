"""Which cameras of this machine can be opened, and why the others cannot."""

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

# From linux/videodev2.h: VIDIOC_QUERYCAP, an ioctl that fills a v4l2_capability of 104 bytes; the flags of the node
# itself are at 88; a node gives pictures that says VIDEO_CAPTURE, in one plane or several.
_QUERYCAP = 0x80685600
_CAPABILITY_BYTES, _NODE_FLAGS_AT = 104, 88
_VIDEO_CAPTURE = 0x1 | 0x1000


def gives_pictures(path: Path) -> bool:
    """Say whether a device node is one that pictures come from; True where the node does not tell.

    A webcam has a second node for metadata, and a Raspberry Pi a dozen for its codecs: they are no cameras.
    """
    try:
        node = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return True  # what is in the way, opening it as a camera says better
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
    is_camera: Callable[[Path], bool] = gives_pictures,
    timeout_s: float = TIMEOUT_S,
) -> list[Check]:
    """Open every camera of this machine and read a frame of it.

    None of them fails the diagnosis: which camera a run will use is not known here, and a stream needs none.

    Args:
        devices: the folder of the device nodes.
        open_camera: opens one, as `watch` does.
        is_camera: says whether pictures come from a node.
        timeout_s: how long one may take for its first frame.
    """
    nodes = [path for path in devices.glob("video*") if re.fullmatch(r"video\d+", path.name)]
    nodes.sort(key=lambda path: int(path.name.removeprefix("video")))
    cameras = [path for path in nodes if is_camera(path)]
    if not cameras:
        return [Check(name="cameras", status="ok", found=f"none at this machine ({devices}/video*); streams need none")]
    return [_check_camera(path, open_camera, timeout_s) for path in cameras]


def _check_camera(path: Path, open_camera: Callable[[str], Source], timeout_s: float) -> Check:
    name = f"camera {path}"
    try:
        frame, fps = first_frame(lambda: open_camera(str(path)), timeout_s=timeout_s)
    except NoFrameInTimeError as error:
        advice = "unplug it and plug it in again; end other programs that may use it"
        return Check(name=name, status="warn", found=str(error), advice=advice)
    except TwincarError as error:
        return Check(name=name, status="warn", found=str(error))  # it says itself what to do: a group to join, often
    width, height = size_of(frame)
    return Check(name=name, status="ok", found=f"{width}x{height}" + (f", {fps:g} frames a second" if fps else ""))
