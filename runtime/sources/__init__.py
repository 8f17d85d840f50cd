"""Frame sources: a table of kinds that maps a user's specification to an open `Source`.

`open_source` is the entry point. A source is a context manager and an iterator of `Frame`s. It counts and reports the
frames that it skipped, and releases its resources even if the loop over it fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.files import is_file, is_folder
from twincar_edge.images import IMAGE_SUFFIXES
from twincar_edge.runtime.sources.base import (
    Frame,
    FrameSource,
    Source,
    SourceState,
    SourceStatus,
    quote_source,
    redact_url,
)
from twincar_edge.runtime.sources.bounds import MAX_FRAME_PIXELS
from twincar_edge.runtime.sources.devices import is_device, open_device
from twincar_edge.runtime.sources.folder import open_folder
from twincar_edge.runtime.sources.images import has_magic, open_glob, open_image
from twincar_edge.runtime.sources.network import is_stream, open_stream
from twincar_edge.runtime.sources.video import open_video_file

__all__ = [
    "KINDS",
    "MAX_FRAME_PIXELS",
    "Frame",
    "FrameSource",
    "Source",
    "SourceState",
    "SourceStatus",
    "is_camera",
    "open_source",
    "redact_url",
]


@dataclass(frozen=True)
class SourceOptions:
    """Options of a source; see `open_source`."""

    stride: int
    once: bool
    stop: threading.Event
    size_wh: tuple[int, int] | None
    keep_trying: bool
    seen: Path | None
    poll_s: float | None
    max_pixels: int


@dataclass(frozen=True)
class Kind:
    """A row of the table: how to recognize a specification of this kind, and how to open it."""

    matches: Callable[[str], bool]
    open: Callable[[str, SourceOptions], Source]


# The first row that matches wins.
KINDS: dict[str, Kind] = {
    "device": Kind(
        is_device,
        lambda spec, options: open_device(
            spec,
            options.stride,
            stop=options.stop,
            size_wh=options.size_wh,
            keep_trying=options.keep_trying,
            max_pixels=options.max_pixels,
        ),
    ),
    "stream": Kind(
        is_stream,
        lambda spec, options: open_stream(
            spec,
            options.stride,
            stop=options.stop,
            keep_trying=options.keep_trying,
            poll_s=options.poll_s,
            max_pixels=options.max_pixels,
        ),
    ),
    "folder": Kind(
        lambda spec: is_folder(Path(spec)),
        lambda spec, options: open_folder(
            spec,
            options.stride,
            once=options.once,
            stop=options.stop,
            seen=options.seen,
            max_pixels=options.max_pixels,
        ),
    ),
    "image": Kind(
        lambda spec: Path(spec).suffix.lower() in IMAGE_SUFFIXES and is_file(Path(spec)),
        lambda spec, options: open_image(spec, options.stride, options.max_pixels),
    ),
    "video": Kind(
        lambda spec: is_file(Path(spec)),
        lambda spec, options: open_video_file(spec, options.stride, options.max_pixels),
    ),
    "glob": Kind(
        lambda spec: has_magic(spec) and "://" not in spec,
        lambda spec, options: open_glob(spec, options.stride, options.max_pixels),
    ),
}


def is_camera(spec: str, *, once: bool = False) -> bool:
    """Return whether a source is endless and cannot be replayed.

    That holds for devices, streams and watched folders; video files and images can be read again.
    """
    return is_device(spec) or is_stream(spec) or (not once and is_folder(Path(spec)))


def open_source(
    spec: str,
    *,
    once: bool = False,
    stride: int = 1,
    stop: threading.Event | None = None,
    size_wh: tuple[int, int] | None = None,
    keep_trying: bool = False,
    seen: Path | None = None,
    poll_s: float | None = None,
    max_pixels: int = MAX_FRAME_PIXELS,
) -> Source:
    """Open what the user named: a device, stream, folder, image, video file or pattern.

    Args:
        spec: `/dev/video0`, a camera's index, an `rtsp://` or `http://` URL, or a path or glob pattern.
        once: read only the current images of a folder; otherwise, wait for new ones.
        stride: give only every Nth frame.
        stop: ends the waiting for new frames or images.
        size_wh: width and height to ask a camera of this machine for.
        keep_trying: retry a camera or stream that cannot be opened now, as if it was lost; `status` has the problem.
            Files and folders must exist.
        seen: a file that lists the images of a watched folder that were `handled`, so that a restart continues
            after them.
        poll_s: seconds from one picture to the next, of an HTTP camera that gives one a request.
        max_pixels: refuse a camera or video whose frames are larger, and leave out images that are.

    Raises:
        InputError: it does not exist, cannot be opened, or is of an unknown kind.
    """
    if stride < 1:
        raise InputError(f"the stride must be at least 1, found {stride}")
    options = SourceOptions(stride, once, stop or threading.Event(), size_wh, keep_trying, seen, poll_s, max_pixels)
    for kind in KINDS.values():
        if kind.matches(spec):
            return kind.open(spec, options)
    if "://" in spec:
        raise InputError(f"cannot read {redact_url(spec)}: streams are rtsp://, rtsps://, http:// or https://")
    raise InputError(
        f"no source {quote_source(spec)}: no such file or folder; use a camera's index or /dev/video0, an rtsp:// or "
        "http:// stream, a file, a folder, or a quoted pattern of images"
    )
