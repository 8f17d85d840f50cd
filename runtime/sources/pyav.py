"""Decodes through PyAV the video that OpenCV cannot decode correctly: interlaced frames, and codecs that it lacks.

OpenCV reads everything else. A progressive stream costs about the same in both, but connecting through PyAV takes
longer, since its timeouts take Python's lock at each read from the network. PyAV is in the extra `clips`, and bundles
its own FFmpeg.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.cores import lower_priority
from twincar_edge.errors import InputError, require
from twincar_edge.runtime.sources.bounds import MAX_FRAME_PIXELS, limited_frames, limited_opening
from twincar_edge.runtime.sources.streams import Contents, choose_stream, contents_of
from twincar_edge.runtime.sources.unchanged import MANY

# Protocols that references may use: an MP4 or a playlist can name other files and URLs.
_FILE, _HTTP, _RTSP = "file", "http,https,httpproxy,tcp,tls", "rtp,srtp,udp,tcp,tls,http,https,httpproxy"
_FROM_KEY_FRAME = 300  # frames to look at for an interlaced one: most encoders give a key frame at least every 250
# As `frame.rotation` counts, anticlockwise.
_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, -90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, -180: cv2.ROTATE_180}


@dataclass(frozen=True)
class PyAVInput:
    """A video that PyAV can open repeatedly; a URL has a timeout for opening and for each read.

    Frames of more than `max_pixels` are not decoded.
    """

    url: str
    threads: int
    timeout_s: float | None = None
    max_pixels: int = MAX_FRAME_PIXELS

    def interlaced(self, at_s: float = 0.0) -> bool:
        """Return whether a frame is flagged as interlaced, at the beginning or shortly after the time `at_s`.

        It looks at a bounded number of frames, however long the video is.

        Raises:
            MissingExtraError: PyAV is not installed.
        """
        try:
            capture = self.open()
        except InputError:
            return False
        try:
            if at_s > 0:
                capture.seek(at_s)
            return capture.is_interlaced(_FROM_KEY_FRAME if at_s > 0 else MANY)
        finally:
            capture.release()

    def contents(self) -> Contents | None:
        """Return what the container states about its video, None if PyAV cannot open it.

        Raises:
            MissingExtraError: PyAV is not installed.
        """
        with ThreadPoolExecutor(1, "open a video", initializer=lower_priority) as opener:
            return opener.submit(self._contents).result()

    def _contents(self) -> Contents | None:
        try:
            with limited_opening(self.max_pixels), _open_container(self) as container:
                return contents_of(container)
        except InputError:
            return None

    def open(self) -> PyAVCapture:
        """Open the video, and decode its first frame.

        Raises:
            MissingExtraError: PyAV is not installed.
            InputError: PyAV cannot decode it either.
        """
        # FFmpeg's threads inherit the low priority of the thread that starts them.
        require("av", "clips")  # before the limit is set, which is that of the FFmpegs that are loaded
        with (
            limited_opening(self.max_pixels),
            ThreadPoolExecutor(1, "open a video", initializer=lower_priority) as opener,
        ):
            return opener.submit(PyAVCapture, self).result()


class PyAVCapture:
    """A `Capture` that deinterlaces interlaced frames, and returns no picture for a frame that is marked as corrupt.

    Like OpenCV, it applies the file's rotation, and scales all pictures to the size of the first.

    Attributes:
        frames: the frames as they are decoded, before all of that.
    """

    def __init__(self, what: PyAVInput) -> None:
        """Open it, and decode its first frame; see `PyAVInput.open`."""
        self._av: Any = require("av", "clips")
        self._container = _open_container(what)
        self._open = True
        self._limits = contextlib.ExitStack()
        self._timeout_s = what.timeout_s
        self._asked_s = time.monotonic()
        try:
            self._stream = choose_stream(self._container.streams.video)
            self._stream.codec_context.thread_count = what.threads
            self._stream.thread_type = "AUTO"
            self._stream.codec_context.options = _limits(what)
            decoded = self._decode()
            first = next(decoded)
        except (AttributeError, StopIteration) as error:
            self.release()
            raise InputError("PyAV cannot decode the video") from error
        self.frames = _chain(first, decoded)
        self._graph: Any = None
        self._layout: tuple[int, int, str] | None = None
        self._size_wh = first.width, first.height
        self._turn = _TURNS.get(first.rotation)
        self._progressive = self._deinterlaced()
        self._now: Any = None
        self._limits.enter_context(limited_frames(self))

    def isOpened(self) -> bool:
        """Return whether it has not been released."""
        return self._open

    def get(self, propId: int, /) -> float:
        """Return the rate, the size, the number of frames or the time of the frame that was grabbed, as OpenCV does."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        if propId == cv2.CAP_PROP_FPS:
            return float(rate or 0)
        if propId == cv2.CAP_PROP_FRAME_WIDTH:
            return float(self._stream.width)
        if propId == cv2.CAP_PROP_FRAME_HEIGHT:
            return float(self._stream.height)
        if propId == cv2.CAP_PROP_FRAME_COUNT:
            duration, base = self._stream.duration, self._stream.time_base
            return float(self._stream.frames or (duration and base and rate and round(duration * base * rate)) or 0)
        if propId == cv2.CAP_PROP_POS_MSEC:
            return math.nan if self._now is None or self._now.time is None else self._now.time * 1000
        return 0.0

    def grab(self) -> bool:
        """Go to the next frame; for a URL, return False if none arrives within the timeout."""
        self._asked_s = time.monotonic()
        self._now = next(self._progressive, None) if self._open else None
        return self._now is not None

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """Return the picture of the frame that was grabbed."""
        if self._now is None or self._now.is_corrupt:
            return False, None
        width, height = self._size_wh
        image = self._now.reformat(width=width, height=height, format="bgr24").to_ndarray()
        return True, image if self._turn is None else np.ascontiguousarray(cv2.rotate(image, self._turn))

    def release(self) -> None:
        """Close it."""
        self._open = False
        self._container.close()
        self._limits.close()

    def is_interlaced(self, frames: int) -> bool:
        """Return whether one of the next frames is flagged as interlaced; it consumes those up to the first.

        For a URL, it looks at the frames that arrive within the timeout.
        """
        self._asked_s = time.monotonic()
        for _ in range(frames):
            frame = next(self.frames, None)
            if frame is None or frame.interlaced_frame:
                return frame is not None
        return False

    def seek(self, time_s: float) -> None:
        """Go to the key frame before a time since the beginning; do nothing if the container cannot seek."""
        with contextlib.suppress(self._av.error.FFmpegError):
            self._container.seek(round(time_s * self._av.time_base) + (self._container.start_time or 0))

    def _decode(self) -> Iterator[Any]:
        """Yield the frames that can be decoded; skip undecodable packets, as OpenCV does."""
        packets = self._container.demux()  # of all streams: sound without pictures must not block beyond the timeout
        decode, index = self._stream.codec_context.decode, self._stream.index
        while True:
            try:
                packet = next(packets, None)
            except (self._av.error.FFmpegError, IndexError):
                packet = None  # IndexError: PyAV raises it at the end if a transport stream added a stream late
            if self._timeout_s is not None and time.monotonic() - self._asked_s > self._timeout_s:
                return
            if packet is not None and packet.stream_index != index:
                continue
            with contextlib.suppress(self._av.error.FFmpegError):
                yield from decode(packet)
            if packet is None:
                return

    def _deinterlaced(self) -> Iterator[Any]:
        """Yield the frames, from the first interlaced one on through FFmpeg's filter, which keeps progressive ones."""
        for frame in self.frames:
            layout = frame.width, frame.height, frame.format.name
            if self._graph is None and not frame.interlaced_frame:
                yield frame
                continue
            if self._layout != layout:
                yield from self._filtered(None)
                self._layout = layout
                self._graph = self._deinterlacer(frame)
            yield from self._filtered(frame)
        yield from self._filtered(None)

    def _deinterlacer(self, frame: Any) -> Any:
        graph = self._av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        # One output frame per input frame: events do not need 50 pictures a second.
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
        graph.configure()
        return graph

    def _filtered(self, frame: Any) -> Iterator[Any]:
        if self._graph is None:
            return
        self._graph.vpush(frame)
        while True:
            try:
                yield self._graph.vpull()
            except (self._av.error.BlockingIOError, self._av.error.EOFError):
                return


def _limits(what: PyAVInput) -> dict[str, str]:
    return {"max_pixels": str(what.max_pixels)}  # for the container, it limits the frames decoded to probe the streams


def _network_options() -> dict[str, str]:
    """Return FFmpeg's options for OpenCV, which `capture.py` or the user has set: both must connect alike."""
    options = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")
    return {key: value for key, found, value in (pair.partition(";") for pair in options.split("|")) if found}


def _open_container(what: PyAVInput) -> Any:
    av = require("av", "clips")
    options = {"protocol_whitelist": _FILE, **_limits(what)}
    if what.timeout_s is not None:
        options["protocol_whitelist"] = _RTSP if what.url.lower().startswith("rtsp") else _HTTP
        options = {**_network_options(), **options}
    try:
        return av.open(what.url, timeout=what.timeout_s, options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise InputError("PyAV cannot open the video") from error


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
