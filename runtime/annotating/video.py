"""`watch --annotate`: an annotated video for each camera.

Each video has its own queue and thread, so drawing and encoding delay neither a live camera nor the model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from twincar_edge.cores import lower_priority
from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import check_not_read, replacing
from twincar_edge.runtime.annotating.picture import Painter
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.loop.answering import LiveFrame
from twincar_edge.runtime.sinks.backlog import DRAIN_S, Backlog
from twincar_edge.runtime.sinks.encoding import SURVIVES_KILL, VideoEncoder, require_encoder
from twincar_edge.runtime.sinks.queued import Item
from twincar_edge.runtime.sinks.running import running
from twincar_edge.runtime.sources import Source

logger = logging.getLogger(__name__)

CAMERA = "{camera}"  # in the path, stands for the camera's name
OPEN_S = 30.0  # a disk may have to spin up first
_MOST_WAITING = 4  # frames: in 4K, 100 MB
_POLL_S = 0.1
_PARAMETER = Parameter("annotate")


@dataclass(frozen=True)
class VideoSummary:
    """A video that was written; `dropped` frames came faster than they could be encoded."""

    path: Path
    frames: int
    dropped: int


class AnnotatedVideos:
    """Writes one annotated video for each camera; call it with every `LiveFrame`.

    Each video appears under its name when the block ends, even if the run failed: it then ends with the last frame
    before. A camera without a frame leaves no file. A disk that hangs delays the end of the block by at most `DRAIN_S`.

    Attributes:
        summaries: the videos that were written; filled when the block ends.
    """

    def __init__(self, path: Path, cameras: Sequence[CameraConfig], *, stop: threading.Event | None = None) -> None:
        """Check the paths; nothing is opened yet.

        Args:
            path: an .mp4 file. `{camera}` in it stands for the camera's name; several cameras need it.
            cameras: the cameras of the run.
            stop: set when the run is to end: from then on nothing waits for a slow disk.

        Raises:
            MissingExtraError: PyAV is not installed.
            InputError: the path does not end in .mp4, or is the same for several cameras.
        """
        require_encoder()
        if path.suffix.lower() != ".mp4":
            raise InputError(_PARAMETER, f" writes MP4: name a file that ends in .mp4, found {path}")
        if len(cameras) > 1 and CAMERA not in str(path):
            example = path.with_stem(f"{path.stem}-{CAMERA}")
            raise InputError(_PARAMETER, f" names one file for {len(cameras)} cameras: write {example}")
        self.summaries: tuple[VideoSummary, ...] = ()
        stop = stop or threading.Event()
        paths = {camera.name: Path(str(path).replace(CAMERA, camera.name)) for camera in cameras}
        sources = [Path(camera.source) for camera in cameras]
        self._videos = {camera.name: _Video(paths[camera.name], camera, sources, stop) for camera in cameras}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Create the files.

        Raises:
            InputError: one of them is a camera's source, or cannot be created, or not within `OPEN_S`.
        """
        with ExitStack() as stack:
            stack.enter_context(running(tuple(self._videos.values())))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Finish the files.

        Raises:
            InputError: one of them could not be written, or not within the time.
        """
        self._stack.close()
        self.summaries = tuple(video.summary for video in self._videos.values() if video.summary.frames)

    def wait_for_room(self) -> None:
        """Block when a queue is full instead of dropping frames, for sources that can wait."""
        for video in self._videos.values():
            video.waits = True

    def require_moving(self, sources: Iterable[Source]) -> None:
        """Check that every source gives frames in time order, not single images.

        Raises:
            InputError: a source gives single images.
        """
        for source in sources:
            if source.stills:
                raise InputError(_PARAMETER, f" needs a video or a camera: {source.name} gives single images")

    def __call__(self, live: LiveFrame) -> None:
        """Add a frame to its camera's video."""
        self._videos[live.camera].put(live)


class _Video:
    """The video of one camera."""

    def __init__(self, path: Path, camera: CameraConfig, sources: Sequence[Path], stop: threading.Event) -> None:
        self.waits = False
        self._path = path
        self._sources = sources
        self._painter = Painter(camera)
        self._stop = stop
        self._backlog: Backlog[LiveFrame] = Backlog(_MOST_WAITING, time.monotonic)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name=f"annotate {camera.name}", daemon=True)
        self._created = threading.Event()  # or it cannot be

    @property
    def summary(self) -> VideoSummary:
        _waiting, _encoded, dropped = self._backlog.counts()
        return VideoSummary(self._path, self._encoder.pictures, dropped)

    def __enter__(self) -> Self:
        self._thread.start()
        give_up_s = time.monotonic() + OPEN_S
        while not self._created.wait(_POLL_S):
            if self._stop.is_set() or time.monotonic() >= give_up_s:
                self.stop()
                raise InputError(f"cannot create {self._path}: the disk hangs or is too slow")
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._backlog.join(self._thread, self._stop)
        if self._thread.is_alive():
            raise InputError(
                f"cannot finish {self._path} within {DRAIN_S:g} s: the disk hangs or is too slow; the video so far is "
                f"in {self._temporary.name}"
            )
        self._backlog.drop_rest()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Reject more frames, and encode those that wait: within `DRAIN_S`, or, while sources wait, without a limit."""
        self._backlog.stop(None if self.waits and not self._stop.is_set() else DRAIN_S)

    def put(self, live: LiveFrame) -> None:
        self._backlog.put(live, wait_until=self._stop if self.waits else None)

    def _write(self) -> None:
        """Create the file, write it and give it its name, all in this thread: each step may hang with the disk."""
        lower_priority()  # the loop's threads have priority
        try:
            check_not_read([self._path], self._sources, _PARAMETER.name)
            with replacing(self._path) as self._temporary:
                self._encoder = VideoEncoder(self._temporary, SURVIVES_KILL)
                self._created.set()
                self._encode_all()
        except _NoFrames:
            logger.info("no video %s: there was no frame", self._path)
        except BaseException as error:  # noqa: BLE001
            self._error = error  # raised at the start, or at the end of the run: events matter more than the video
        finally:
            self._created.set()

    def _encode_all(self) -> None:
        try:
            with closing(self._encoder):
                while isinstance(item := self._backlog.take(), Item):
                    live = item.event
                    self._encoder.add(self._painter.paint(live), live.frame.time_s)
                    self._backlog.done(item.number, delivered=1)
        except BaseException as error:
            logger.warning("the video %s ends: %s", self._path, error)
            self._backlog.stop(DRAIN_S)  # so that no camera waits
            self._backlog.drop_rest()
            raise
        if not self._encoder.pictures:
            raise _NoFrames


class _NoFrames(Exception):
    """Discards the file."""
