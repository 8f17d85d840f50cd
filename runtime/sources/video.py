"""Frames from a video of known length: a file, or a recording behind a URL."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from twincar_edge.cores import lower_priority, usable_cores
from twincar_edge.errors import InputError, MissingExtraError
from twincar_edge.runtime.sources.ahead import ReadAhead
from twincar_edge.runtime.sources.base import Frame, Source, bytes_of
from twincar_edge.runtime.sources.bounds import AHEAD_BYTES, MAX_FRAME_PIXELS, checked_size, limited, limited_opening
from twincar_edge.runtime.sources.capture import Capture, codec_name, estimated_frames, nominal_fps
from twincar_edge.runtime.sources.pyav import PyAVInput
from twincar_edge.runtime.sources.recording import recording_digest
from twincar_edge.runtime.sources.unchanged import MANY, Unchanged
from twincar_edge.videos import open_capture

logger = logging.getLogger(__name__)

ASSUMED_FPS = 25.0  # default if a file does not state it
DEPTH = 4  # frames decoded ahead: enough to smooth what a frame costs, at 25 MB of 1080p
RELEASE_S = 3.0  # for the frame that is being decoded
_INDEX = (  # for recordings behind a URL: FFmpeg cannot read their end first
    "; an MP4 file whose index is at its end needs a server with range requests; to move the index to the front: "
    "ffmpeg -i IN -c copy -movflags +faststart OUT.mp4"
)
_TRIES = 8  # consecutive failed reads after which the rest of a video is abandoned


class _NoFrameError(InputError):
    """No frame can be decoded."""


class VideoFile(Source):
    """A video of known length, in the file system or behind a URL: no frame dropped, with the video's times.

    A separate thread prefetches frames. Video that OpenCV cannot decode correctly is read through PyAV.
    """

    def __init__(
        self,
        capture: Capture,
        name: str,
        spare: PyAVInput,
        *,
        kind: str = "video",
        stride: int = 1,
        recording: str | None = None,
        stated_frames: int = 0,
    ) -> None:
        """Take an open capture, and the same video for PyAV.

        Args:
            capture: the open capture.
            name: the source's.
            spare: opens the same video in PyAV.
            kind: the row of the table of kinds.
            stride: give only every Nth frame.
            recording: the digest of the file.
            stated_frames: how many frames the container states, 0 if it does not: then no missing ones are counted.
        """
        super().__init__(name)
        self.recordings = set() if recording is None else {recording}
        self._recording = recording
        self.kind = kind
        self.fps = nominal_fps(capture)
        self._capture = capture
        self._codec = codec_name(capture)
        self._spare = spare
        self._stated_frames = stated_frames
        self._stride = stride
        self._ahead = ReadAhead(
            self._decode(), DEPTH, size_of=bytes_of, max_size=AHEAD_BYTES, name=f"decode {self.name}"
        )

    def __iter__(self) -> Iterator[Frame]:
        """Yield every `stride`-th frame.

        The decoder silently skips undecodable frames; gaps in the frames' times and the frame count of the file reveal
        them.

        Raises:
            InputError: no frame can be decoded, or all are the same and PyAV, which might decode them, is missing.
        """
        try:
            yield from self._counted(self._ahead)
        finally:
            self.release()

    def release(self) -> None:
        """Close the file."""
        # A hung read keeps the capture, and its thread releases it: two threads in a capture would crash the process.
        if self._ahead.close(RELEASE_S):
            self._capture.release()

    def _decode(self) -> Iterator[Frame]:
        try:
            yield from self._checked(self._frames())
        except _NoFrameError:
            hint = _INDEX if self.kind == "stream" else ""
            try:
                self._capture = self._spare.open()
            except MissingExtraError as error:
                raise InputError(
                    f"cannot decode {self.name}: OpenCV has no decoder for its {self._codec} video: pip install "
                    f"'twincar-edge[{error.extra}]', or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4{hint}"
                ) from error
            except InputError as error:
                raise InputError(f"no frame of the {self._codec} video {self.name} can be decoded{hint}") from error
            logger.info("%s is read through PyAV: OpenCV has no decoder for its %s video", self.name, self._codec)
            yield from self._frames()

    def _checked(self, frames: Generator[Frame]) -> Iterator[Frame]:
        """Yield frames, but hold back byte-identical ones until the cause is known.

        For a frame flagged as interlaced, OpenCV returns the previous picture again, or uninitialized memory. Drawn
        videos and title cards also repeat pictures; their frames are yielded as they are.
        """
        unchanged, held = Unchanged(), list[Frame]()
        given: Frame | None = None
        for frame in frames:
            before = held[-1] if held else given
            if unchanged.add(frame.image_bgr, frame.time_s) == 1 and before is not None:
                yield from held
                held.clear()
                given = frame
                yield frame
                continue
            held.append(frame if before is None else replace(frame, image_bgr=before.image_bgr))  # one in memory
            if len(held) == MANY:
                break
        missing: MissingExtraError | None = None
        try:
            # Two equal pictures at the end of a video with motion are harmless.
            suspect = len(held) == MANY or (held and given is None)
            if suspect and self._spare.interlaced(0.0 if given is None else given.time_s):
                frames.close()
                logger.info("%s is interlaced: it is read through PyAV, and deinterlaced", self.name)
                self._capture = self._spare.open()
                with self._lock:
                    self._skip_reasons.clear()  # PyAV counts them again
                begin_s = -math.inf if given is None else given.time_s + 0.5 / (self.fps or ASSUMED_FPS)
                yield from (frame for frame in self._frames() if frame.time_s > begin_s)
                return
        except MissingExtraError as error:
            missing = error
            if given is not None and len(held) == MANY:
                logger.warning(
                    "%s: %d pictures from frame %d on are identical; if the %s video is interlaced there, "
                    "OpenCV cannot decode it: pip install 'twincar-edge[%s]'",
                    self.name, MANY + 1, given.index, self._codec, error.extra,
                )  # fmt: skip
        yield from held
        for frame in frames:
            if missing is not None and given is None and unchanged.add(frame.image_bgr, frame.time_s) == 1:
                given = frame
            yield frame
        if missing is not None and given is None and unchanged.run > 1:
            raise InputError(
                f"all {unchanged.run} pictures of {self.name} are identical: nothing moves in it, or its "
                f"{self._codec} video is interlaced, which OpenCV cannot decode: pip install "
                f"'twincar-edge[{missing.extra}]', or convert it: ffmpeg -i IN -vf bwdif OUT.mp4"
            )

    def _frames(self) -> Generator[Frame]:
        rate = self.fps or ASSUMED_FPS
        expected = self._stated_frames or estimated_frames(self._capture)
        read, index, first_ms, last_s = 0, -1, None, -math.inf
        try:
            while self._advance(expected - read):
                read += 1
                position_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                first_ms = position_ms if first_ms is None else first_ms
                time_s = (position_ms - first_ms) / 1000
                if not (math.isfinite(time_s) and time_s > last_s):
                    time_s = (index + 1) / rate  # a container without times, or one that repeats them or jumps back
                last_s = time_s = max(time_s, math.nextafter(last_s, math.inf))
                index = max(index + 1, round(time_s * rate))
                if (read - 1) % self._stride:
                    continue
                done, image = self._capture.retrieve()
                if done and image is not None:
                    yield Frame(index, time_s, np.asarray(image, np.uint8), self.name, self._recording)
                else:
                    self._skip("undecodable frame", f"frame {index} of {self.name} cannot be decoded")
        finally:
            self._capture.release()
        if read == 0:
            raise _NoFrameError(f"{self.name} opens as a video, but no frame of it can be decoded")
        stated = self._stated_frames
        lost = stated - read
        # An edit list can hide a frame or two. If the last frame was read and some are missing, the gap is in the
        # middle.
        if lost > (0 if index >= stated - 1 else max(2, stated // 100)):
            self._skip("undecodable frame", f"{lost} of the {stated} frames of {self.name} cannot be decoded", lost)

    def _advance(self, frames_left: int) -> bool:
        """Advance to the next decodable frame; a failed read is the end only if no frames should remain."""
        return any(self._capture.grab() for _ in range(_TRIES if frames_left > 0 else 1))


def open_video_file(spec: str, stride: int, max_pixels: int = MAX_FRAME_PIXELS) -> Source:
    """Open a video file.

    Raises:
        InputError: it is missing, unreadable or undecodable, or has frames of more than
            `max_pixels`.
    """
    path = Path(spec)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read the video {path}: {error.strerror}") from error
    # Absolute, so that FFmpeg does not read a file name with a colon as a protocol.
    url, threads = str(path.absolute()), max(1, usable_cores() // 2)
    # FFmpeg's threads inherit the low priority of the thread that starts them, so this is done in another thread.
    with limited_opening(max_pixels), ThreadPoolExecutor(1, "open a video", initializer=lower_priority) as opener:
        opening = opener.submit(open_capture, url, str(path), cv2.CAP_PROP_N_THREADS, threads)
    capture = limited(opening.result())
    if not head or not capture.isOpened():
        capture.release()
        raise InputError(
            f"cannot read the video {path}: not a video that FFmpeg can decode, or truncated before its index"
        )
    checked_size(capture, str(path), max_pixels)
    spare = PyAVInput(url, threads, max_pixels=max_pixels)
    capture, stated_frames = examined(capture, spare, str(path), states_frames=head == b"RIFF")
    try:
        recording = recording_digest(path)
    except OSError as error:
        capture.release()
        raise InputError(f"cannot read the video {path}: {error.strerror}") from error
    return VideoFile(capture, spec, spare, stride=stride, recording=recording, stated_frames=stated_frames)


def examined(capture: Capture, spare: PyAVInput, name: str, *, states_frames: bool = False) -> tuple[Capture, int]:
    """Return a capture of the video stream to read, and how many frames the container states for it, or 0.

    The capture is the given one, or PyAV's where OpenCV would read another stream.

    Args:
        capture: OpenCV's, which reads the container's first video stream.
        spare: opens the same video in PyAV.
        name: for the log and for errors.
        states_frames: the container is known to state its number of frames, as AVI does; without PyAV, nothing else
            tells a stated number from OpenCV's estimate.

    Raises:
        InputError: there are only attached pictures, or PyAV cannot decode the stream; the capture is released.
    """
    try:
        contents = spare.contents()
    except MissingExtraError:
        return capture, estimated_frames(capture) if states_frames else 0
    if contents is None or not contents.streams:
        return capture, 0
    if len(contents.streams) > 1 and contents.chosen is not None:
        logger.info("%s has %s", name, contents.describe())
    if contents.chosen == 0:
        return capture, contents.frames
    capture.release()
    if contents.chosen is None:
        raise InputError(f"cannot read the video {name}: it has no video, only an attached picture such as cover art")
    try:
        return spare.open(), contents.frames
    except InputError as error:
        raise InputError(f"cannot read the video {name}: {error}") from error
