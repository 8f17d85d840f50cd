"""Detects interlaced live streams by the pictures that OpenCV repeats for them, and reads them through PyAV."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from twincar_edge.errors import InputError, MissingExtraError
from twincar_edge.runtime.sources.capture import Capture
from twincar_edge.runtime.sources.pyav import PyAVInput
from twincar_edge.runtime.sources.unchanged import MANY, Unchanged

logger = logging.getLogger(__name__)

HOLD_S = 2.0  # the longest wait for a second picture that differs from the first
_LOOKS = 3  # connections through PyAV that may fail before the stream stays with OpenCV


class ReaderChoice:
    """Which library reads a live stream: OpenCV, or PyAV once frames of it are known to be interlaced.

    For an interlaced frame OpenCV repeats a picture and reports success. After many repetitions the connection is
    closed, and the next one is opened in PyAV, which shows whether frames are interlaced. If they are, PyAV continues;
    otherwise OpenCV does, and repetitions are not examined again. A progressive stream costs nothing extra, and there
    is never more than one connection, because some cameras allow only one. The choice outlives connections.
    """

    def __init__(self, name: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin with OpenCV; `name` is the stream's in the log."""
        self._name = name
        self._monotonic = monotonic
        self._suspected = self._interlaced = False
        self._looks = _LOOKS

    def open_pyav(self, what: PyAVInput) -> Capture | None:
        """Open the stream in PyAV, if it is interlaced or may be; None if OpenCV must read it.

        Raises:
            InputError: PyAV cannot open an interlaced stream now.
        """
        if self._interlaced:
            return what.open()
        if not self._suspected:
            return None
        self._suspected = False
        self._looks -= 1
        try:
            capture = what.open()
        except MissingExtraError:
            self._looks = 0
            return None
        except InputError as error:
            logger.debug("%s cannot be examined through PyAV: %s", self._name, error)
            return None
        if capture.is_interlaced(2 * MANY):
            self._interlaced = True
            logger.info("%s is interlaced: it is read through PyAV, and deinterlaced", self._name)
            return capture
        self._looks = 0
        capture.release()
        return None

    def watch(self, capture: Capture) -> Capture:
        """Return a capture that examines OpenCV's pictures for repetitions, or the same one if none is needed."""
        return _Watched(capture, self._suspect, self._monotonic) if self._looks else capture

    def _suspect(self) -> None:
        self._suspected = True
        raise InputError(f"{self._name} repeats its pictures: examining whether its video is interlaced")


class _Watched:
    """A capture that counts repeated pictures, and holds the first one back until another differs from it.

    A changed picture takes one repetition back: a camera that sends some pictures twice is not suspected.

    The first picture of an interlaced stream is black. If the background model learned it, all that follows would
    differ from the background.
    """

    def __init__(self, capture: Capture, suspect: Callable[[], None], monotonic: Callable[[], float]) -> None:
        self._capture, self._suspect, self._monotonic = capture, suspect, monotonic
        self.isOpened, self.get, self.release = capture.isOpened, capture.get, capture.release
        self._unchanged = Unchanged()
        self._repeated = 0  # repetitions beyond the changed pictures
        self._held: tuple[bool, Any] | None = None  # a decoded picture that was not given yet
        self._hold_until_s: float | None = monotonic() + HOLD_S

    def grab(self) -> bool:
        if self._hold_until_s is None:
            return self._capture.grab()
        while self._capture.grab():
            first = self._held is None
            self._held = self._decode()
            if not first and (self._unchanged.run == 1 or self._monotonic() > self._hold_until_s):
                self._hold_until_s = None
                return True
        self._hold_until_s = None
        return self._held is not None  # the connection ended: give the only picture

    def retrieve(self) -> tuple[bool, Any]:
        decoded, self._held = self._held or self._decode(), None
        return decoded

    def _decode(self) -> tuple[bool, Any]:
        done, image = self._capture.retrieve()
        if done and image is not None and image.size:
            repeated = self._unchanged.add(image, 0.0) > 1
            self._repeated = max(0, self._repeated + (1 if repeated else -1))
            if self._repeated == MANY:
                self._suspect()
        return done, image
