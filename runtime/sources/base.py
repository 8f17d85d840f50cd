"""The interface of a source: a context manager that yields frames and reports its status."""

from __future__ import annotations

import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import one_line
from twincar_edge.files import as_text
from twincar_edge.runtime.log_rate import is_logged

logger = logging.getLogger(__name__)

# Up to the last @, even one in the path: a password with a slash or a space must not leak; losing a host name is
# acceptable.
_USER_INFO = re.compile(r"(?<=://).*@", re.DOTALL)
# What follows: the host, the first part of the path, and the rest. Some cameras take a password or token there:
# `?user=admin&pwd=1234`, `/user=admin_password=1234_channel=1`, `rtsps://host:7441/aBcD1234eFgH5678`.
_PARTS = re.compile(r"(?<=://)([^/?#\s'\"]*)(/[^/?#\s'\"]*)?([/?#][^\s'\"]*)?")
_LONGEST_WORD = 12
_FILE_PATH = re.compile(r"[.~]?/(?!/)[^@?]*")


def redact_url(text: str) -> str:
    """Return `text` with everything that may be secret in its URLs replaced by `***`.

    Each URL keeps its scheme, host, port, and the first part of the path if it is a short word. Errors, events, logs
    and the screen show a source's name only in this form. Text without a URL is returned unchanged.
    """
    if "://" not in text:
        return text
    return _PARTS.sub(_without_secrets, _USER_INFO.sub("***@", text))


def _without_secrets(found: re.Match[str]) -> str:
    host, first, rest = (part or "" for part in found.groups())
    end = re.search(r"[:;,.)]*$", rest or first)  # punctuation of the surrounding sentence
    assert end is not None
    word = first if rest else first[: end.start()]
    if len(word) > _LONGEST_WORD + 1 or "=" in word:
        word = "/***"
    hidden = rest[:1] + "***" if rest.strip("/?#") else rest
    return host + word + hidden + (end[0] if not rest or hidden != rest else "")


def quote_source(spec: str) -> str:
    """Return a user's source specification in quotes, redacted: it may be a mistyped URL with a password."""
    harmless = _FILE_PATH.fullmatch(spec) or not re.search("[:=]", spec)
    return repr(spec if harmless else redact_url(f"://{spec}").removeprefix("://"))


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    `index` counts the source's own frames from 0, those left out by a stride or a defect included. `time_s` is the
    video's own time for a file and seconds since the start for a live source; single images have no time, theirs is 0.
    `image_bgr` is uint8 [H, W, 3]. `name` is for people: the image's file name, or the source's name. `recording` is
    the digest of the video or image file that it is from, None for a live camera.
    """

    index: int
    time_s: float
    image_bgr: NDArray[np.uint8]
    name: str
    recording: str | None = None


SourceState = Literal["opening", "live", "stalled", "waiting", "ended"]


@dataclass(frozen=True)
class SourceStatus:
    """The current status of a source.

    Attributes:
        state: `opening` until the first frame; `live` while frames come (a file or folder is live while it is read,
            however long a folder waits for its next image); `stalled` when a connection that is open sends nothing, or
            only a picture that never changes;
            `waiting` while a camera or folder that was lost, or a camera that could not be opened, is tried again;
            `ended` when there will be no more frames.
        frames: given so far.
        dropped: frames of a live source that newer ones replaced before they were consumed.
        skipped: frames or images that could not be decoded, and those of a live picture that never changes.
        reconnects: how often a live source was reopened.
        last_frame_age_s: since the newest frame, or since the first of a run of unchanged ones; None before the first
            frame.
        problem: what is wrong now, in one line without secrets, or None.
        size_wh: of the newest frame; None before the first.
        fps: nominal frames a second, if the source states them.
        late_after_s: seconds without a frame after which a live source is `stalled`: more for one that is polled.
    """

    state: SourceState
    frames: int
    dropped: int
    skipped: int
    reconnects: int
    last_frame_age_s: float | None
    problem: str | None
    size_wh: tuple[int, int] | None
    fps: float | None
    late_after_s: float = 0.0


class Source(ABC):
    """Frames in order, from anywhere. Use it as a context manager: leaving it releases the camera or file.

    One thread iterates; `status`, the counters and `release` may be used from any.

    Attributes:
        name: what the user asked for, with secrets redacted.
        kind: the row of the table of kinds that it came from: device, stream, video, image, folder, glob.
        live: frames come in real time, and a slow consumer loses some.
        stills: the images are independent of each other, not a sequence in time.
        fps: nominal frames a second, None if unknown.
        recordings: digests of the files read so far, of a source that ends by itself.
        on_wait: called by a camera or stream several times a second while its consumer waits for a frame, in the
            consumer's thread.
    """

    kind: str
    live: bool = False
    stills: bool = False
    fps: float | None = None

    def __init__(self, name: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Name the source; the name is redacted here, once. `monotonic` is the clock of its ages, in seconds."""
        self.name = redact_url(as_text(name))
        self.recordings: set[str] = set()
        self.on_wait: Callable[[], object] = lambda: None
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._skip_reasons: Counter[str] = Counter()
        self._state: SourceState = "opening"
        self._given = 0
        self._size_wh: tuple[int, int] | None = None
        self._newest_s: float | None = None
        self._problem: str | None = None

    @property
    def skipped(self) -> int:
        """Return how many frames or images were unusable and left out."""
        with self._lock:
            return self._skip_reasons.total()

    @property
    def skip_reasons(self) -> dict[str, int]:
        """Return how many were left out for each reason."""
        with self._lock:
            return dict(self._skip_reasons)

    def status(self) -> SourceStatus:
        """Return the current status."""
        with self._lock:
            return self._status(self._state)

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once, in order. The source is released when the iteration ends or fails."""

    @abstractmethod
    def release(self) -> None:
        """Release the camera, file or connection. Idempotent and thread-safe.

        A blocked iteration ends.
        """

    def handled(self, index: int) -> None:  # noqa: B027 - only some sources remember it
        """Record that a frame, given by its index, is done: all its events were published."""

    def __enter__(self) -> Self:
        """Return the source, which is already open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release."""
        self.release()

    def _status(
        self, state: SourceState, *, dropped: int = 0, reconnects: int = 0, late_after_s: float = 0.0
    ) -> SourceStatus:
        return SourceStatus(
            state=state,
            frames=self._given,
            dropped=dropped,
            skipped=self.skipped,
            reconnects=reconnects,
            last_frame_age_s=None if self._newest_s is None else max(0.0, self._monotonic() - self._newest_s),
            problem=self._problem,
            size_wh=self._size_wh,
            fps=self.fps,
            late_after_s=late_after_s,
        )

    def _counted(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield frames at the pace of the consumer, and count them."""
        with self._lock:
            self._state = "live"
        try:
            for frame in frames:
                with self._lock:
                    self._given += 1
                    self._newest_s = self._monotonic()
                    self._size_wh = size_of(frame)
                yield frame
        finally:
            with self._lock:
                self._state = "ended"

    def _skip(self, reason: str, detail: str, count: int = 1) -> None:
        """Count what is left out, and log it: each image, but of a video's or camera's frames ever fewer."""
        with self._lock:
            before = self._skip_reasons[reason]
            self._skip_reasons[reason] = skipped = before + count
        if self.stills or is_logged(before, skipped):
            so_far = f" ({skipped} so far)" if before else ""
            logger.warning("skipped: %s%s", one_line(redact_url(detail)), so_far)


def size_of(frame: Frame) -> tuple[int, int]:
    """Return a frame's width and height."""
    height, width = frame.image_bgr.shape[:2]
    return width, height


def bytes_of(frame: Frame) -> int:
    """Return the size of a frame's picture in bytes."""
    return frame.image_bgr.nbytes


class FrameSource(Source):
    """Frames from any iterable of `Frame`."""

    kind = "frames"

    def __init__(self, frames: Iterable[Frame], *, name: str = "frames", stills: bool = False) -> None:
        """Take the frames; `stills`: they are independent images."""
        super().__init__(name)
        self.stills = stills
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames."""
        yield from self._counted(self._frames)

    def release(self) -> None:
        """Do nothing: there is nothing to release."""
