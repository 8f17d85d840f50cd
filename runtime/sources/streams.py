"""Chooses which video stream of a container to read. OpenCV reads the first one, even if that is cover art."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# https://ffmpeg.org/doxygen/trunk/group__lavf__decoding.html
_DEFAULT, _ATTACHED_PICTURE = 0x1, 0x400
_PICTURES = {"bmp", "gif", "mjpeg", "png", "tiff", "webp"}  # codecs of cover art that a container keeps as a track
_LISTED = 8  # a hostile container has thousands of streams


@dataclass(frozen=True)
class Contents:
    """What a container states about its video.

    Attributes:
        streams: a description of each video stream, attached pictures included, in the container's order.
        chosen: index in `streams` of the one to read, None if there are only attached pictures.
        frames: how many frames the container states for it, 0 if it does not.
    """

    streams: tuple[str, ...]
    chosen: int | None
    frames: int

    def describe(self) -> str:
        """Return which streams there are and which one is read, for a log line."""
        assert self.chosen is not None
        more = len(self.streams) - _LISTED
        listed = ", ".join(self.streams[:_LISTED]) + (f" and {more} more" if more > 0 else "")
        return f"{len(self.streams)} video streams ({listed}); reading number {self.chosen + 1}"


def choose_stream(streams: Sequence[Any]) -> Any:
    """Return the video stream to read, of PyAV's streams: the container's default one, or else the largest.

    None if there is no video. Attached pictures, such as cover art, are not video, and a stream in a codec of pictures
    comes after the others.
    """
    return max(filter(_is_video, streams), key=_rank, default=None)


def contents_of(container: Any) -> Contents:
    """Return what a container that PyAV has opened states about its video."""
    streams = container.streams.video
    chosen = choose_stream(streams)
    index = None if chosen is None else next(at for at, stream in enumerate(streams) if stream.index == chosen.index)
    edited = "mp4" in container.format.name and chosen is not None and _hides_frames(chosen)
    return Contents(tuple(map(_describe, streams)), index, 0 if chosen is None or edited else chosen.frames)


def _hides_frames(stream: Any) -> bool:
    """Return whether the edit list of an MP4 hides frames that the container counts.

    A cut without encoding hides what it leaves before its first key frame. The stated duration is then shorter than
    the frames take, and the count does not tell how many are shown.
    """
    duration, base, rate = stream.duration, stream.time_base, stream.average_rate
    return bool(duration and base and rate and stream.frames > duration * base * rate + max(1, stream.frames / 100))


def _is_video(stream: Any) -> bool:
    return stream.codec_context is not None and not stream.disposition.value & _ATTACHED_PICTURE


def _rank(stream: Any) -> tuple[bool, bool, int]:
    default = bool(stream.disposition.value & _DEFAULT)
    return default, stream.codec_context.name not in _PICTURES, stream.width * stream.height


def _describe(stream: Any) -> str:
    if stream.codec_context is None:
        return "unknown codec"
    kind = " attached picture" if stream.disposition.value & _ATTACHED_PICTURE else ""
    return f"{stream.codec_context.name} {stream.width}x{stream.height}{kind}"
