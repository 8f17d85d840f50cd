"""Clips of visits, and the folder in which they are saved.

H.264 in MP4 plays in every browser, phone and player. OpenCV's wheel has no encoder for it; PyAV has, which the extra
`clips` installs.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError, require
from twincar_edge.files import replacing
from twincar_edge.preprocess import resize
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.retention import Limits
from twincar_edge.runtime.sinks.visit_folder import VisitFolder, visit_file_name

CLIP_SUFFIX = ".mp4"
_CODEC = "libx264"
_OPTIONS = {"preset": "veryfast", "crf": "26"}
_TICKS = 90_000  # a second, as usual in MP4


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame of a clip: when it was taken, in seconds of the source, and a JPEG."""

    time_s: float
    jpeg: bytes


@dataclass(frozen=True, eq=False)
class Clip:
    """The pictures of a visit's pass, oldest first, at least one; `id` and `started_at` are the visit's."""

    id: str
    started_at: datetime
    pictures: tuple[Picture, ...]

    @property
    def name(self) -> str:
        """Return the file name: `20250131T142315.250Z-<id>.mp4`."""
        return visit_file_name(self.started_at, self.id, CLIP_SUFFIX)


@dataclass(frozen=True)
class ClipRules:
    """When a clip starts and ends: `before_s` before a vehicle is first seen, and `after_s` after it is last seen.

    It is cut after `longest_s`: the clip of a vehicle that parks shows how it arrived.
    """

    before_s: float = 2.0
    after_s: float = 2.0
    longest_s: float = 20.0


def clip_name(event: Event) -> str:
    """Return the file name of the clip of an event's visit. The file may be written later than the event."""
    return visit_file_name(event.started_at, event.id, CLIP_SUFFIX)


def require_encoder() -> None:
    """Make sure that clips can be encoded here.

    Raises:
        MissingExtraError: PyAV is not installed.
        InputError: PyAV was built without H.264.
    """
    if _CODEC not in _av().codecs_available:
        raise InputError(f"clips cannot be saved: PyAV has no {_CODEC} here, install av from PyPI")


def clip_folder(path: Path, limits: Limits | None = None) -> VisitFolder:
    """Return the folder of clips at `path`; see `VisitFolder`."""
    return VisitFolder(path, CLIP_SUFFIX, "clip", limits)


def write_clip(path: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures as a video, each shown for as long as it took until the next, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    av = _av()
    with replacing(path) as temporary:
        try:
            _encode(av, temporary, pictures)
        except av.FFmpegError as error:
            raise OSError(error.errno or errno.EIO, error.strerror) from error


def _encode(av: ModuleType, path: Path, pictures: Sequence[Picture]) -> None:
    first = _decode(pictures[0])
    height, width = first.shape[:2]
    # The index at the front lets a browser play before it has the whole file.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(_CODEC, options=_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.thread_count = 1  # the other cores are the loop's
        for picture in pictures:
            image = first if picture is pictures[0] else _decode(picture)
            if image.shape != first.shape:  # the camera has changed its size
                image = resize(image, (width, height))
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = round((picture.time_s - pictures[0].time_s) * _TICKS)
            frame.time_base = Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _decode(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _av() -> ModuleType:
    return require("av", "clips")  # only where clips are saved: it brings an FFmpeg of its own
