"""`watch --show`: a window with the annotated frames of each camera."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import cv2

from twincar_edge.errors import InputError, one_line
from twincar_edge.runtime.annotating.picture import Painter
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.loop.answering import LiveFrame

T = TypeVar("T")

REFRESH_MS = 20
ADVICE = "run this in a desktop session, or write a file instead"
END_KEYS = {ord("q"), 27}  # 27 is Esc
_PROBE = "import cv2; cv2.namedWindow('twincar-edge'); cv2.waitKey(1)"
_PROBE_S = 20.0


def require_display() -> None:
    """Check that this process can show windows.

    Raises:
        InputError: there is no display, or OpenCV was built without windows.
    """
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError(f"no display to show a window on: {ADVICE}")
    try:  # in a subprocess: Qt aborts the process if it cannot reach the display
        done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"the display does not answer: {ADVICE}") from error
    if done.returncode != 0:
        raise InputError(f"OpenCV cannot open a window here: {ADVICE}")


@contextmanager
def window_failures() -> Iterator[None]:
    """Report a failure of the window system, such as a display that went away.

    Raises:
        InputError: in place of OpenCV's error.
    """
    try:
        yield
    except cv2.error as error:
        raise InputError(f"the window failed: {one_line(str(error))}; {ADVICE}") from error


class Windows:
    """Shows the newest `LiveFrame` of each camera; call it with all of them, from any thread."""

    def __init__(self, cameras: Sequence[CameraConfig]) -> None:
        """Check that there is a display.

        Raises:
            InputError: see `require_display`.
        """
        require_display()
        self._painters = {camera.name: Painter(camera) for camera in cameras}
        self._newest: dict[str, LiveFrame] = {}

    def __call__(self, live: LiveFrame) -> None:
        """Queue a frame; a newer one replaces it if it comes before the window is drawn."""
        self._newest[live.camera] = live

    def run(self, work: Callable[[], T], stop: threading.Event) -> T:
        """Call `work` in another thread and show frames until it returns; return its result.

        `q`, Esc, closing a window, or an error in showing a frame sets `stop`. Call it from the main thread, as window
        systems require.

        Raises:
            InputError: the window failed.
        """
        with ThreadPoolExecutor(1, "watch") as pool:
            result = pool.submit(work)
            try:
                self._show_until(result, stop)
            except BaseException:
                stop.set()  # leaving the pool waits for `work`, which may be endless
                raise
            return result.result()

    def _show_until(self, result: Future[T], stop: threading.Event) -> None:
        opened: set[str] = set()
        with window_failures():
            while not result.done() and not stop.is_set():
                for camera in list(self._newest):
                    self._show(camera, self._newest.pop(camera))
                    opened.add(camera)
                if not opened:
                    wait([result], REFRESH_MS / 1000)
                elif cv2.waitKey(REFRESH_MS) & 0xFF in END_KEYS or not all(map(is_open, opened)):
                    stop.set()
            cv2.destroyAllWindows()

    def _show(self, camera: str, live: LiveFrame) -> None:
        cv2.namedWindow(camera, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.imshow(camera, self._painters[camera].paint(live))


def is_open(window: str) -> bool:
    """Return whether a window is shown, and was not closed by the user."""
    return cv2.getWindowProperty(window, cv2.WND_PROP_VISIBLE) >= 1
