"""Clips of visits, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.files import replacing
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.encoding import INDEX_FIRST, VideoEncoder
from twincar_edge.runtime.sinks.retention import Limits
from twincar_edge.runtime.sinks.visit_folder import VisitFolder, visit_file_name

CLIP_SUFFIX = ".mp4"


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame of a clip: its time in the source, in seconds, and its JPEG."""

    time_s: float
    jpeg: bytes


@dataclass(frozen=True, eq=False)
class Clip:
    """The frames of a visit, oldest first, at least one; `id` and `started_at` are the visit's."""

    id: str
    started_at: datetime
    pictures: tuple[Picture, ...]

    @property
    def name(self) -> str:
        """Return the file name: `20250131T142315.250Z-<id>.mp4`."""
        return visit_file_name(self.started_at, self.id, CLIP_SUFFIX)


@dataclass(frozen=True)
class ClipRules:
    """A clip starts `before_s` before a vehicle is first seen, and ends `after_s` after it is last seen.

    It lasts at most `longest_s`: the clip of a vehicle that parks shows its arrival.
    """

    before_s: float = 2.0
    after_s: float = 2.0
    longest_s: float = 20.0


def clip_name(event: Event) -> str:
    """Return the file name of a visit's clip. The file may be written after the event."""
    return visit_file_name(event.started_at, event.id, CLIP_SUFFIX)


def clip_folder(path: Path, limits: Limits | None = None) -> VisitFolder:
    """Return the folder of clips at `path`; see `VisitFolder`."""
    return VisitFolder(path, CLIP_SUFFIX, "clip", limits)


def write_clip(path: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures as a video atomically; each picture is shown until the time of the next.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as temporary, closing(VideoEncoder(temporary, INDEX_FIRST)) as encoder:
        for picture in pictures:
            encoder.add(_decode(picture), picture.time_s)


def _decode(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
