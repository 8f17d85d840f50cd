"""Encodes H.264 in MP4, which plays in every browser, phone and player.

OpenCV's wheel has no H.264 encoder. PyAV has one; the extra `clips` installs it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError, require
from twincar_edge.preprocess import resize

_CODEC = "libx264"
_OPTIONS = {"preset": "veryfast", "crf": "26"}
_TICKS = 90_000  # per second, as usual in MP4


@dataclass(frozen=True)
class Layout:
    """Options of the MP4 muxer and of the encoder that determine the layout of a file."""

    container: Mapping[str, str]
    codec: Mapping[str, str]


# With the index at the front, a browser plays the file before it is complete; the muxer has to write the file twice.
INDEX_FIRST = Layout({"movflags": "+faststart"}, {})
# Fragments of two seconds remain readable if the process is killed; closing turns them into an ordinary file. They
# start at 0 s only without B-frames.
SURVIVES_KILL = Layout(
    {"movflags": "+hybrid_fragmented", "frag_duration": "2000000", "flush_packets": "1"}, {"bf": "0"}
)


def require_encoder() -> None:
    """Check that an H.264 encoder is available.

    Raises:
        MissingExtraError: PyAV is not installed.
        InputError: PyAV was built without H.264.
    """
    if _CODEC not in _av().codecs_available:
        raise InputError(f"cannot encode video: this build of PyAV lacks {_CODEC}; install av from PyPI")


class VideoEncoder:
    """Encodes pictures with timestamps into a file. The first picture sets the size, rounded down to even numbers.

    Attributes:
        pictures: number of pictures added.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        """Prepare; the file is opened with the first picture. `layout` is `INDEX_FIRST` or `SURVIVES_KILL`."""
        self.pictures = 0
        self._path = path
        self._layout = layout
        self._tick = -1
        self._file: _File | None = None

    def add(self, image_bgr: NDArray[np.uint8], time_s: float) -> None:
        """Encode a picture, uint8 [H, W, 3], shown from `time_s`, which must increase.

        Raises:
            OSError: the file cannot be written.
        """
        with self._as_os_error():
            if not self.pictures:
                self._open(image_bgr, time_s)
            width, height = self._size_wh
            if image_bgr.shape[:2] not in (self._shape, (height, width)):  # the camera changed its resolution
                image_bgr = resize(image_bgr, self._size_wh)
            picture = np.ascontiguousarray(image_bgr[:height, :width])
            frame = self._av.VideoFrame.from_ndarray(picture, format="bgr24")
            tick = max(round((time_s - self._start_s) * _TICKS), self._tick + 1)
            self._tick, self._ticks_shown = tick, tick - self._tick
            frame.pts = tick
            frame.time_base = Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
            self.pictures += 1

    def close(self) -> None:
        """Finish the file. Without a picture, no file is written.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file is None:
            return
        with self._file, self._as_os_error():
            if self.pictures:
                try:
                    # After a header that could not be written, another packet would crash PyAV.
                    for packet in self._stream.encode(None) if self._file.error is None else ():
                        packet.duration = self._ticks_shown  # the last packet has no successor to derive it from
                        self._container.mux(packet)
                finally:
                    self._container.close()

    def _open(self, image_bgr: NDArray[np.uint8], time_s: float) -> None:
        self._av = _av()
        self._shape = image_bgr.shape[:2]
        rows, columns = self._shape
        self._size_wh = columns & ~1, rows & ~1  # 4:2:0 subsampling requires even sizes
        self._start_s = time_s
        self._file = _File(str(self._path), "w")
        self._container = self._av.open(
            self._file,
            "w",
            format="mp4",
            options=dict(self._layout.container),
            io_open=lambda url, *_: FileIO(url),  # to move the content behind the index
        )
        self._stream = self._container.add_stream(_CODEC, options={**_OPTIONS, **self._layout.codec})
        self._stream.width, self._stream.height = self._size_wh
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream.codec_context.thread_count = 1  # leave the other cores to the loop

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        av = _av()
        try:
            yield
        except av.FFmpegError as error:
            if self._file is not None and self._file.error is not None:
                raise self._file.error from error
            raise OSError(error.errno or errno.EIO, error.strerror) from error


class _File(FileIO):
    """The file as PyAV's muxer writes it.

    Given a path, FFmpeg would open the file and write its end while PyAV holds the GIL: a disk that hangs would stop
    all threads of the process. A file of Python releases the GIL while it writes. It has no buffer, so that what was
    written survives a kill.

    Attributes:
        error: the first error of a write, for which PyAV may raise another.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of `data`, an object with a buffer, where a `FileIO` may write less."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = self.error or error
            raise
        return memoryview(data).nbytes


def _av() -> ModuleType:
    return require("av", "clips")  # imported late: it loads its own copy of FFmpeg
