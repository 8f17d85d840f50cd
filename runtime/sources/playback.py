"""A video file that replaces a camera: played at its own pace, in a loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from twincar_edge.runtime.sources.base import Frame, FrameSource
from twincar_edge.runtime.sources.video import ASSUMED_FPS, open_video_file


class Playback(FrameSource):
    """Plays a video in real time, like a camera, until `stop` is set. Each pass has its own visits."""

    kind = "playback"
    live = True

    def __init__(self, path: Path, stop: threading.Event, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the file; iteration opens it."""
        super().__init__(self._play(path, stop, monotonic), name=path.name)

    def _play(self, path: Path, stop: threading.Event, monotonic: Callable[[], float]) -> Iterator[Frame]:
        begun_s, index, time_s = monotonic(), 0, 0.0
        while not stop.is_set():
            first, first_s = index, time_s
            with open_video_file(str(path), 1) as video:
                period_s = 1 / (video.fps or ASSUMED_FPS)
                for frame in video:
                    index, time_s = first + frame.index, first_s + frame.time_s
                    begun_s = max(begun_s, monotonic() - time_s)  # a late frame delays all later ones
                    if stop.wait(begun_s + time_s - monotonic()):
                        return
                    # No recording: a repeated scene is a new visit.
                    yield replace(frame, index=index, time_s=time_s, recording=None)
            index, time_s = index + 1, time_s + period_s
