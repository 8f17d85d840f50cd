"""`watch --annotate`: an annotated video for each camera.

Each video has its own queue and thread, so drawing and encoding delay neither a live camera nor the model.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from twincar_edge.cores import lower_priority
from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import check_not_read, replacing
from twincar_edge.runtime.annotating.picture import Painter
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.loop.answering import LiveFrame
from twincar_edge.runtime.sinks.encoding import SURVIVES_KILL, VideoEncoder, require_encoder
from twincar_edge.runtime.sources import Source

logger = logging.getLogger(__name__)

CAMERA = "{camera}"  # in the path, stands for the camera's name
_MOST_WAITING = 4  # frames: in 4K, 100 MB
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
    before. A camera without a frame leaves no file.

    Attributes:
        summaries: the videos that were written; filled when the block ends.
    """

    def __init__(self, path: Path, cameras: Sequence[CameraConfig]) -> None:
        """Check the paths; nothing is opened yet.

        Args:
            path: an .mp4 file. `{camera}` in it stands for the camera's name; several cameras need it.
            cameras: the cameras of the run.

        Raises:
            MissingExtraError: PyAV is not installed.
            InputError: the path does not end in .mp4, is a camera's source, or is the same for several cameras.
        """
        require_encoder()
        if path.suffix.lower() != ".mp4":
            raise InputError(_PARAMETER, f" writes MP4: name a file that ends in .mp4, found {path}")
        if len(cameras) > 1 and CAMERA not in str(path):
            example = path.with_stem(f"{path.stem}-{CAMERA}")
            raise InputError(_PARAMETER, f" names one file for {len(cameras)} cameras: write {example}")
        self.summaries: tuple[VideoSummary, ...] = ()
        self._videos = {camera.name: _Video(Path(str(path).replace(CAMERA, camera.name)), camera) for camera in cameras}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Create the files.

        Raises:
            InputError: one of them cannot be written.
        """
        with ExitStack() as stack:
            for video in self._videos.values():
                stack.enter_context(video)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Finish the files.

        Raises:
            InputError: one of them could not be written.
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

    def __init__(self, path: Path, camera: CameraConfig) -> None:
        check_not_read([path], [Path(camera.source)], _PARAMETER.name)
        self.waits = False
        self._path = path
        self._painter = Painter(camera)
        self._frames: queue.Queue[LiveFrame | None] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name=f"annotate {camera.name}", daemon=True)
        self._file = ExitStack()

    @property
    def summary(self) -> VideoSummary:
        return VideoSummary(self._path, self._encoder.pictures, self._dropped)

    def __enter__(self) -> Self:
        self._encoder = VideoEncoder(self._file.enter_context(replacing(self._path)), SURVIVES_KILL)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.put(None)
        self._thread.join()
        with suppress(_NoFrames), self._file:
            if self._error is not None:
                raise self._error
            if not self._encoder.pictures:
                logger.info("no video %s: there was no frame", self._path)
                raise _NoFrames

    def put(self, live: LiveFrame) -> None:
        try:
            self._frames.put(live, block=self.waits)
        except queue.Full:
            self._dropped += 1

    def _write_all(self) -> None:
        lower_priority()  # the loop's threads have priority
        frames = iter(self._frames.get, None)
        try:
            with closing(self._encoder):
                for live in frames:
                    self._encoder.add(self._painter.paint(live), live.frame.time_s)
        except BaseException as error:  # noqa: BLE001
            self._error = error  # raised at the end of the run: events matter more than the video
            logger.warning("the video %s ends: %s", self._path, error)
            for _ in frames:
                pass  # drain the queue, so that no writer blocks


class _NoFrames(Exception):
    """Discards the file."""
