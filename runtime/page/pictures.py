"""Live pictures of the cameras: drawn and encoded once for all viewers, and not at all without viewers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import cv2

from twincar_edge.cores import lower_priority
from twincar_edge.preprocess import resize
from twincar_edge.runtime.annotating.picture import Painter
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.loop.answering import LiveFrame
from twincar_edge.runtime.page.background import BackgroundWorker
from twincar_edge.runtime.page.listeners import Listener, Listeners
from twincar_edge.wording import titled

logger = logging.getLogger(__name__)

MAX_WIDTH = 960  # pixels
INTERVAL_S = 0.2  # between two pictures of a camera
_QUALITY = 80


class LivePictures(BackgroundWorker):
    """The newest picture of each camera, while it has viewers.

    The loop calls `wants` before it hands over a frame, so frames without viewers cost nothing. The thread draws and
    encodes, and skips frames that arrive faster than it works.
    """

    def __init__(self, cameras: Sequence[CameraConfig], monotonic: Callable[[], float] = time.monotonic) -> None:
        """Prepare for these cameras; `monotonic` is the clock that spaces pictures."""
        super().__init__("live pictures")
        self._views = {camera.name: _View(camera) for camera in cameras}
        self._monotonic = monotonic
        self._waiting: dict[str, LiveFrame] = {}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Return the names of the cameras."""
        return tuple(self._views)

    def wants(self, camera: str) -> bool:
        """Return whether the camera's next frame would be shown. Takes no lock, because the loop calls it per frame."""
        view = self._views[camera]
        return bool(view.listeners) and self._monotonic() >= view.due_s

    def __call__(self, live: LiveFrame) -> None:
        """Hand over a frame, if it is wanted, for the thread to draw."""
        if not self.wants(live.camera):
            return
        view = self._views[live.camera]
        with self._changed:
            view.due_s = self._monotonic() + INTERVAL_S
            self._waiting[live.camera] = live  # replaces an older one
            self._changed.notify_all()

    def watching(self, camera: str, listener: Listener) -> AbstractContextManager[None]:
        """Make pictures of the camera while the block runs, and wake the listener after each one."""
        return self._views[camera].listeners.listening(listener)

    def newest(self, camera: str) -> bytes | None:
        """Return the newest picture as JPEG, or None; it may be old if the camera had no viewers since."""
        return self._views[camera].picture

    def _work(self) -> None:
        lower_priority()  # the loop's threads have priority
        while (live := self._take()) is not None:
            view = self._views[live.camera]
            try:
                image_bgr = view.painter.paint(shrunk(live))
                view.picture = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
            except Exception:  # one camera's fault must not delay the others
                logger.exception("cannot draw the live picture of %s", titled("camera", live.camera))
            view.listeners.wake()

    def _take(self) -> LiveFrame | None:
        """Wait for a frame and return it, from the camera that has waited longest; None when the thread has to stop."""
        with self._changed:
            return self._waiting.pop(next(iter(self._waiting))) if self._wait_for(lambda: self._waiting) else None


class _View:
    """One camera: its viewers, its newest picture, and when the next one is due."""

    def __init__(self, camera: CameraConfig) -> None:
        self.painter = Painter(camera)
        self.listeners = Listeners()
        self.picture: bytes | None = None
        self.due_s = 0.0


def shrunk(live: LiveFrame) -> LiveFrame:
    """Return a frame with its boxes, scaled to at most `MAX_WIDTH` pixels.

    Names are drawn after scaling, so they stay readable.
    """
    rows, columns = live.frame.image_bgr.shape[:2]
    scale = MAX_WIDTH / columns
    if scale >= 1:
        return live

    def scaled(box: Box) -> Box:
        left, top, right, bottom = (round(edge * scale) for edge in box)
        return left, top, right, bottom

    image = resize(live.frame.image_bgr, (MAX_WIDTH, max(1, round(rows * scale))))
    return replace(
        live,
        frame=replace(live.frame, image_bgr=image),
        tracks=tuple(replace(track, box_xyxy=scaled(track.box_xyxy)) for track in live.tracks),
        ignored=tuple(replace(ignored, box_xyxy=scaled(ignored.box_xyxy)) for ignored in live.ignored),
    )
