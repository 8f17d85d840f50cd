"""What a source is: a context manager that gives frames, and what it says when it cannot."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# Up to the last @, even one in the path: a password with a slash in it must not come through, a host name may go.
_USER_INFO = re.compile(r"(?<=://)\S*@")
# Cameras take their password in the path or query as well: `?user=admin&pwd=1234`,
# `/user=admin_password=1234_channel=1`.
_SECRET_FIELD = re.compile(r"(?i)((?:user|usr|login|pass|pwd|psw|token|secret|key|auth|sig)[a-z]*)=[^&;#\s]*")


def redact_url(text: str) -> str:
    """Return `text` with the user, password and secret fields of every URL in it replaced by `***`.

    The only form in which a source's name reaches an error, an event, a log or the screen. Text without a URL comes
    back as it is.
    """
    if "://" not in text:
        return text
    return _SECRET_FIELD.sub(r"\1=***", _USER_INFO.sub("***@", text))


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    `index` counts the source's own frames from 0, those left out by a stride or a defect included. `time_s` is the
    video's own time for a file and seconds since the start for a live source; single images have no time, theirs is 0.
    `image_bgr` is uint8 [H, W, 3]. `name` is for people: the image's file name, or the source's name.
    """

    index: int
    time_s: float
    image_bgr: NDArray[np.uint8]
    name: str


class Source(ABC):
    """Frames in order, from anywhere. Use it as a context manager: leaving it releases the camera or file.

    Attributes:
        name: what the user asked for, with secrets redacted.
        kind: the row of the table of kinds that it came from: device, stream, video, image, folder, glob.
        live: frames come at the pace of the world, and waiting loses them.
        stills: every image stands alone; it has no neighbours in time.
        fps: nominal frames a second, None where there is no such thing.
        skipped: frames that could not be decoded, and were left out. `skip_reasons` counts them by reason.
    """

    kind: str
    live: bool = False
    stills: bool = False
    fps: float | None = None

    def __init__(self, name: str) -> None:
        """Name the source; the name is redacted here, once."""
        self.name = redact_url(name)
        self.skip_reasons: Counter[str] = Counter()

    @property
    def skipped(self) -> int:
        """Return how many frames or images were unusable and left out."""
        return self.skip_reasons.total()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Give the frames, once, in order. The source is released when the iteration ends, however it ends."""

    @abstractmethod
    def release(self) -> None:
        """Give back the camera, file or connection. May be called again."""

    def __enter__(self) -> Self:
        """Return the source, which is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release."""
        self.release()

    def _skip(self, reason: str, detail: str, count: int = 1) -> None:
        self.skip_reasons[reason] += count
        logger.warning("skipped: %s", redact_url(detail))


class FrameSource(Source):
    """Frames that are there already, or that somebody else makes: an iterable of `Frame`."""

    kind = "frames"

    def __init__(self, frames: Iterable[Frame], *, name: str = "frames", stills: bool = False) -> None:
        """Take the frames; `stills` says that each stands alone."""
        super().__init__(name)
        self.stills = stills
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames."""
        yield from self._frames

    def release(self) -> None:
        """Nothing to give back."""
