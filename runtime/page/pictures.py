"""Live pictures of the cameras: painted and encoded once for all who watch, and not at all while nobody does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Self

import cv2

from twincar_edge.cores import lower_priority
from twincar_edge.preprocess import resize
from twincar_edge.runtime.annotating.picture import Painter
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.loop.answering import LiveFrame
from twincar_edge.runtime.page.listeners import Listener, Listeners

logger = logging.getLogger(__name__)

MOST_WIDE = 960  # pixels
INTERVAL_S = 0.2  # between two pictures of a camera
_QUALITY = 80


class LivePictures:
    """The newest picture of each camera, while it has viewers.

    The loop asks `wants` before it hands over a frame, so that it does nothing for frames that nobody would see. A
    thread of its own paints and encodes, and skips frames where it is too slow.
    """

    def __init__(self, cameras: Sequence[CameraConfig], monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the cameras; `monotonic` is the clock between pictures."""
        self._views = {camera.name: _View(camera) for camera in cameras}
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._waiting: dict[str, LiveFrame] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._paint_all, name="live pictures", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Return the names of the cameras."""
        return tuple(self._views)

    def wants(self, camera: str) -> bool:
        """Return whether the camera's next frame would be shown. It takes no lock: the loop asks with each frame."""
        view = self._views[camera]
        return bool(view.listeners) and self._monotonic() >= view.due_s

    def __call__(self, live: LiveFrame) -> None:
        """Take a frame, if it is wanted. It is painted elsewhere."""
        if not self.wants(live.camera):
            return
        view = self._views[live.camera]
        with self._changed:
            view.due_s = self._monotonic() + INTERVAL_S
            self._waiting[live.camera] = live  # replaces an older one
            self._changed.notify_all()

    def watching(self, camera: str, listener: Listener) -> AbstractContextManager[None]:
        """Have new pictures made while the block runs, and the listener woken by each."""
        return self._views[camera].listeners.listening(listener)

    def newest(self, camera: str) -> bytes | None:
        """Return the newest picture that was made, as JPEG; it may be old where nobody watched since."""
        return self._views[camera].picture

    def _paint_all(self) -> None:
        lower_priority()  # the loop's threads go first
        while (live := self._take()) is not None:
            view = self._views[live.camera]
            try:
                image_bgr = view.painter.paint(shrunk(live))
                view.picture = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
            except Exception:  # a picture that fails must not be the last one
                logger.exception("no live picture of camera %s", live.camera)
            view.listeners.wake()

    def _take(self) -> LiveFrame | None:
        """Wait for a frame and return it, of the camera that has waited longest; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else self._waiting.pop(next(iter(self._waiting)))


class _View:
    """One camera: who watches it, its newest picture, and when the next one is due."""

    def __init__(self, camera: CameraConfig) -> None:
        self.painter = Painter(camera)
        self.listeners = Listeners()
        self.picture: bytes | None = None
        self.due_s = 0.0


def shrunk(live: LiveFrame) -> LiveFrame:
    """Return a frame with all that is known of it, at most `MOST_WIDE` pixels wide.

    Names stay readable in what is painted onto the smaller picture.
    """
    rows, columns = live.frame.image_bgr.shape[:2]
    scale = MOST_WIDE / columns
    if scale >= 1:
        return live

    def scaled(box: Box) -> Box:
        left, top, right, bottom = (round(edge * scale) for edge in box)
        return left, top, right, bottom

    image = resize(live.frame.image_bgr, (MOST_WIDE, max(1, round(rows * scale))))
    return replace(
        live,
        frame=replace(live.frame, image_bgr=image),
        tracks=tuple(replace(track, box_xyxy=scaled(track.box_xyxy)) for track in live.tracks),
        ignored=tuple(replace(ignored, box_xyxy=scaled(ignored.box_xyxy)) for ignored in live.ignored),
    )
