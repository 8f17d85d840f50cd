"""The last seconds of a camera's frames, in memory, and the clips of visits that are cut from them.

A clip begins before its vehicle comes into view, so recent frames are buffered as JPEGs, at most `FPS` a second and
`WIDTH` pixels wide. The buffer has a byte limit: beyond it, the oldest frames are dropped and a clip begins later.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.preprocess import thumbnail
from twincar_edge.runtime.loop.inbox import Crop, End, Item
from twincar_edge.runtime.sinks.clips import Clip, ClipRules, Picture
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.visits import Visit

FPS = 8.0
WIDTH = 640
QUALITY = 80
LIMIT_BYTES = 16 * 2**20


@dataclass
class _Take:
    """A clip being recorded; `from_s` and `until_s` are times of the source.

    `given`: the clip was delivered; `gone`: its vehicle has left.
    """

    started_at: datetime
    from_s: float
    until_s: float
    given: bool = False
    gone: bool = False


class Footage:
    """The footage of one camera; used by that camera's thread only.

    Attributes:
        bytes: the size of the pictures in memory.
    """

    def __init__(
        self, give: Callable[[Clip], None], rules: ClipRules | None = None, *, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        """Start empty.

        Args:
            give: called with each clip as soon as it is complete.
            rules: the margins and length of a clip.
            limit_bytes: the most bytes of pictures in memory.
        """
        self.bytes = 0
        self._give = give
        self._rules = rules or ClipRules()
        self._limit_bytes = limit_bytes
        self._pictures: deque[Picture] = deque()
        self._takes: dict[str, _Take] = {}
        self._next_s = -math.inf

    def add(self, frame: Frame) -> None:
        """Buffer a frame, if one is due. Call it with every frame, before `see` gets the frame's items."""
        if frame.time_s < self._next_s:
            return
        self._next_s = max(self._next_s + 1 / FPS, frame.time_s)
        picture = Picture(frame.time_s, _small_jpeg(frame.image_bgr))
        self._pictures.append(picture)
        self.bytes += len(picture.jpeg)
        # The longest clip, and a margin for the frame that completes it.
        oldest_s = frame.time_s - self._rules.longest_s - 2 / FPS
        while self._pictures and (self.bytes > self._limit_bytes or self._pictures[0].time_s < oldest_s):
            self.bytes -= len(self._pictures.popleft().jpeg)

    def see(self, items: Sequence[Item], time_s: float) -> None:
        """Process a frame's items, and deliver the clips that are complete at its time."""
        for item in items:
            if isinstance(item, Crop) and item.counts:
                self._take(item.visit)
            elif isinstance(item, End) and item.counts:
                take = self._take(item.visit)
                take.until_s = min(take.until_s, item.visit.times_s[1] + self._rules.after_s)
                take.gone = True
            elif isinstance(item, End):
                self._takes.pop(item.visit.id, None)
        for id, take in list(self._takes.items()):
            if time_s >= take.until_s and not take.given:
                self._finish(id, take)
            if take.given and take.gone:
                del self._takes[id]

    def close(self) -> None:
        """Deliver the incomplete clips as they are: no more frames will come."""
        for id, take in self._takes.items():
            if not take.given:
                self._finish(id, take)
        self._takes.clear()
        self._pictures.clear()
        self.bytes = 0

    def _take(self, visit: Visit) -> _Take:
        """Return the clip of a vehicle; create it when the vehicle is first confirmed."""
        take = self._takes.get(visit.id)
        if take is None:
            oldest_s = self._pictures[0].time_s if self._pictures else -math.inf
            from_s = max(visit.times_s[0] - self._rules.before_s, oldest_s)
            take = self._takes[visit.id] = _Take(visit.started_at, from_s, from_s + self._rules.longest_s)
        return take

    def _finish(self, id: str, take: _Take) -> None:
        take.given = True
        pictures = tuple(picture for picture in self._pictures if take.from_s <= picture.time_s <= take.until_s)
        if pictures:
            self._give(Clip(id, take.started_at, pictures))


def _small_jpeg(image_bgr: NDArray[np.uint8]) -> bytes:
    """Return a frame as a JPEG, at most `WIDTH` wide, with even sides as H.264 needs."""
    rows, columns = image_bgr.shape[:2]
    width = min(WIDTH, columns)
    size_wh = max(2, width & ~1), max(2, round(rows * width / columns) & ~1)
    if size_wh != (columns, rows):
        image_bgr = thumbnail(image_bgr, size_wh)
    return cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
