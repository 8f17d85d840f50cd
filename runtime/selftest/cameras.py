"""Which cameras of this machine can be opened, and why the others cannot."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.runtime.selftest.diagnosis import Check
from twincar_edge.runtime.sources import Source, open_source
from twincar_edge.runtime.sources.devices import DEVICES

TIMEOUT_S = 10.0
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
    """Open a camera in a thread of its own: a driver may block for ever, and the diagnosis must not."""
    name = f"camera {path}"
    answers: list[str | TwincarError] = []
    opened: list[Source] = []

    def look() -> None:
        try:
            with open_camera(str(path)) as source:
                opened.append(source)
                answers.append(_first_frame(str(path), source))
        except TwincarError as error:
            answers.append(error)

    thread = threading.Thread(target=look, name=name, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not answers:
        problem = ""
        for source in opened:
            problem = f": {reported}" if (reported := source.status().problem) else ""
            source.release()
        return Check(
            name=name,
            status="warn",
            found=f"no picture within {timeout_s:g} s{problem}",
            advice="unplug it and plug it in again; end other programs that may use it",
        )
    (answer,) = answers
    if isinstance(answer, str):
        return Check(name=name, status="ok", found=answer)
    return Check(name=name, status="warn", found=str(answer))  # it says itself what to do: a group to join, often


def _first_frame(spec: str, source: Source) -> str:
    frame = next(iter(source), None)
    if frame is None:
        raise InputError(f"{spec} opens but sends no picture: another program may be using it")
    rows, columns = frame.image_bgr.shape[:2]
    return f"{columns}x{rows}" + (f", {source.fps:g} frames a second" if source.fps else "")
