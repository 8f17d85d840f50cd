"""Where frames come from: a table of kinds, from what the user writes to an open `Source`.

`open_source` is the way in. A source is a context manager and an iterator of `Frame`s; it counts and reports what it
had to leave out, and releases what it holds however the loop over it ends.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.images import IMAGE_SUFFIXES
from twincar_edge.runtime.sources.base import Frame, FrameSource, Source, redact_url
from twincar_edge.runtime.sources.images import has_magic, open_folder, open_glob, open_image
from twincar_edge.runtime.sources.video import device_number, open_device, open_stream, open_video_file

__all__ = ["KINDS", "Frame", "FrameSource", "Source", "open_source", "redact_url"]


@dataclass(frozen=True)
class SourceOptions:
    """What a source can be told: `stride` (every Nth frame), `once` (do not wait for more), `stop` (stop waiting)."""

    stride: int
    once: bool
    stop: threading.Event


@dataclass(frozen=True)
class Kind:
    """A row of the table: whether a specification is of this kind, and how it is opened."""

    matches: Callable[[str], bool]
    open: Callable[[str, SourceOptions], Source]


# The first row that matches wins.
KINDS: dict[str, Kind] = {
    "device": Kind(
        lambda spec: device_number(spec) is not None,
        lambda spec, options: open_device(spec, options.stride),
    ),
    "stream": Kind(
        lambda spec: re.match(r"(?i)(rtsps?|https?)://.", spec) is not None,
        lambda spec, options: open_stream(spec, options.stride),
    ),
    "folder": Kind(
        lambda spec: Path(spec).is_dir(),
        lambda spec, options: open_folder(spec, options.stride, once=options.once, stop=options.stop),
    ),
    "image": Kind(
        lambda spec: Path(spec).suffix.lower() in IMAGE_SUFFIXES and Path(spec).is_file(),
        lambda spec, options: open_image(spec, options.stride),
    ),
    "video": Kind(
        lambda spec: Path(spec).is_file(),
        lambda spec, options: open_video_file(spec, options.stride),
    ),
    "glob": Kind(
        has_magic,
        lambda spec, options: open_glob(spec, options.stride),
    ),
}


def open_source(spec: str, *, once: bool = False, stride: int = 1, stop: threading.Event | None = None) -> Source:
    """Open what the user named: a device, stream, folder, image, video file or pattern.

    Args:
        spec: `/dev/video0`, a camera's index, an `rtsp://` or `http://` URL, or a path or glob pattern.
        once: of a folder, only what is there; otherwise new images are waited for.
        stride: give only every Nth frame.
        stop: ends the waiting for new images.

    Raises:
        InputError: it does not exist, cannot be opened, or is none of these.
    """
    if stride < 1:
        raise InputError(f"a stride is 1 or more, found {stride}")
    options = SourceOptions(stride, once, stop or threading.Event())
    for kind in KINDS.values():
        if kind.matches(spec):
            return kind.open(spec, options)
    if "://" in spec:
        raise InputError(f"cannot read {redact_url(spec)}: streams are rtsp://, rtsps://, http:// or https://")
    raise InputError(
        f"no source {spec!r}: there is no such file or folder; a camera is its index or /dev/video0, a stream is "
        "rtsp:// or http://, and images can be named by a pattern"
    )
