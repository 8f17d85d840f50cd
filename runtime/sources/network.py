"""Cameras and recordings behind a URL: RTSP and HTTP."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import PurePosixPath

from twincar_edge.errors import InputError, MissingExtraError, Parameter
from twincar_edge.images import IMAGE_SUFFIXES
from twincar_edge.runtime.sources.addresses import (
    escape_password,
    host_and_port,
    password_hint,
    path_of,
    split_user_info,
)
from twincar_edge.runtime.sources.base import Source, redact_url
from twincar_edge.runtime.sources.bounds import MAX_FRAME_PIXELS, checked_size, limited, limited_opening
from twincar_edge.runtime.sources.capture import Capture, estimated_frames, open_ffmpeg, open_within
from twincar_edge.runtime.sources.interlaced import ReaderChoice
from twincar_edge.runtime.sources.live import LiveSource
from twincar_edge.runtime.sources.live_rules import LiveRules
from twincar_edge.runtime.sources.multipart import open_multipart
from twincar_edge.runtime.sources.polled import DEFAULT_POLL_S, NotOnePicture, PolledCamera
from twincar_edge.runtime.sources.pyav import PyAVInput
from twincar_edge.runtime.sources.redirects import on_this_host
from twincar_edge.runtime.sources.video import VideoFile, examined

logger = logging.getLogger(__name__)

NETWORK_TIMEOUT_MS = 5000  # for opening and for each frame; without it a lost camera blocks the read forever
KNOCK_S = 1.5  # for a TCP connection: long enough for one retransmission
HANGS_AFTER_S = 5.0  # beyond both timeouts: FFmpeg has ignored them
POLLED_FROZEN_S = 600.0  # servers of single pictures renew some of them every few minutes only
_SCHEME = re.compile(r"(?i)(rtsps?|https?)://.")


def is_stream(spec: str) -> bool:
    """Return whether a specification is the URL of a stream."""
    return _SCHEME.match(spec) is not None


def open_stream(
    spec: str,
    stride: int = 1,
    *,
    stop: threading.Event | None = None,
    keep_trying: bool = False,
    poll_s: float | None = None,
    max_pixels: int = MAX_FRAME_PIXELS,
) -> Source:
    """Open an RTSP or HTTP stream; a plain video file behind HTTP is read as a file.

    An HTTP address that returns one picture per request is polled. It is recognized by `poll_s`, by the suffix of its
    path, or because its video ends after one picture.

    Args:
        spec: the URL, with user and password where the camera requires them, as `escape_password` takes them.
        stride: give only every Nth frame.
        stop: ends the iteration of a stream.
        keep_trying: if it cannot be opened now, retry as for a lost stream.
        poll_s: seconds between two requests to a polled camera.
        max_pixels: refuse larger frames.

    Raises:
        InputError: the URL has no host or a bad port, or is polled and not HTTP; or, without `keep_trying`, there is no
            answer in time or the answer is not video.
    """
    spec = escape_password(spec)
    host_and_port(spec)  # retries cannot fix a wrong URL
    http = spec.lower().startswith("http")
    if poll_s is not None and not http:
        raise InputError(f"cannot poll {redact_url(spec)}: ", Parameter("poll_s"), " is for http:// and https://")
    timeout_s = NETWORK_TIMEOUT_MS / 1000
    stop = stop or threading.Event()
    suffix = PurePosixPath(path_of(spec)).suffix.lower()
    place = _Place(spec)
    reader = ReaderChoice(redact_url(spec))
    state = _Pictures(perhaps=http and (poll_s is not None or suffix in IMAGE_SUFFIXES))

    def spare() -> PyAVInput:
        return PyAVInput(place.url, 1, timeout_s, max_pixels)

    def open_here() -> Capture:
        return open_ffmpeg(place.url, open_timeout_ms=NETWORK_TIMEOUT_MS, read_timeout_ms=NETWORK_TIMEOUT_MS)

    def connect() -> Capture:
        _knock(spec)
        if state.perhaps:
            try:
                camera = PolledCamera(
                    spec, poll_s or DEFAULT_POLL_S, timeout_s=timeout_s, stop=stop, max_pixels=max_pixels
                )
                logger.info("%s returns one picture per request: polling it", redact_url(spec))
                return camera
            except NotOnePicture:
                if poll_s is not None:
                    raise
                state.perhaps = False
        endless = False
        if http:
            pictures, endless = open_multipart(spec, timeout_s=timeout_s, max_pixels=max_pixels)
            if pictures is not None:
                return pictures
        if not http and split_user_info(spec)[0]:
            on_this_host(spec)
        live = reader.open_pyav(spare())
        if live is not None:
            checked_size(live, redact_url(spec), max_pixels)
            return live
        with limited_opening(max_pixels):
            opened_ffmpeg = open_here()
            if http and not opened_ffmpeg.isOpened() and not place.opened:
                place.url = on_this_host(spec)
                if place.url != spec:
                    opened_ffmpeg.release()
                    opened_ffmpeg = open_here()
        capture = limited(opened_ffmpeg)
        if capture.isOpened():
            place.opened = True
            checked_size(capture, redact_url(spec), max_pixels)
            if not http:
                return reader.watch(capture)
            counting = _Counting(capture, state)
            if state.recording is None:
                state.recording = _is_recording(capture, endless, spare())
            return counting if state.recording else reader.watch(counting)
        capture.release()
        raise InputError(
            f"cannot open {redact_url(spec)}: the host is reachable, but sends no video within {timeout_s:g} s: check "
            "the path, the user and the password"
        )

    opened = None
    if http or not keep_trying:  # a recording behind HTTP must be distinguished from a camera before it is read
        hangs = f"cannot open {redact_url(spec)}: it hangs beyond its own timeout"
        try:
            opened = open_within(timeout_s + HANGS_AFTER_S, connect, hangs)
        except InputError:
            if not keep_trying:
                raise
    # A recording that is served by RTSP states its length too, and comes at its own pace like a camera.
    if opened is not None and state.recording:
        opened, stated_frames = examined(opened, spare(), redact_url(spec))
        return VideoFile(opened, spec, spare(), kind="stream", stride=stride, stated_frames=stated_frames)
    wait_s = poll_s or 0.0
    rules = LiveRules(
        silence_s=timeout_s + wait_s,
        stalled_s=LiveRules.stalled_s + 2 * wait_s,
        hung_s=timeout_s + HANGS_AFTER_S + wait_s,
        frozen_s=POLLED_FROZEN_S if state.perhaps else LiveRules.frozen_s,
    )
    return LiveSource(spec, connect, kind="stream", stride=stride, stop=stop, opened=opened, rules=rules)


@dataclass
class _Place:
    """Where FFmpeg opens a stream, which it has done if `opened`; a camera is asked where it leads only before that."""

    url: str
    opened: bool = False


@dataclass
class _Pictures:
    """What an HTTP address gives: perhaps one picture per request, or a recording; None if that is not known yet."""

    perhaps: bool
    recording: bool | None = None


def _is_recording(capture: Capture, endless: bool, spare: PyAVInput) -> bool:
    """Return whether a capture of an HTTP response is a recording, which ends, and not a live stream, which never does.

    A single frame is a picture whatever the server calls it. A response without a length is live, although FFmpeg may
    estimate a duration from its beginning, unless the container states its number of frames.
    """
    if estimated_frames(capture) <= 1:
        return False
    if not endless:
        return True
    try:
        contents = spare.contents()
    except MissingExtraError:
        return False
    return contents is not None and contents.frames > 0


class _Counting:
    """A capture that records whether its connection ended after one picture."""

    def __init__(self, capture: Capture, state: _Pictures) -> None:
        self._capture, self._state, self._grabbed = capture, state, 0
        self.isOpened, self.get, self.retrieve = capture.isOpened, capture.get, capture.retrieve

    def grab(self) -> bool:
        grabbed = self._capture.grab()
        if not grabbed and self._grabbed == 1:
            self._state.perhaps = True
        self._grabbed += grabbed
        return grabbed

    def release(self) -> None:
        self._capture.release()


def _knock(url: str) -> None:
    """Check that a URL's host accepts TCP connections on its port; the connection is closed at once.

    FFmpeg reports every failure alike, and only after its timeout. This check tells a camera without power from one
    that refuses connections. It is fast, so a host that has just returned is found soon.

    Raises:
        InputError: the connection failed.
    """
    # FFmpeg uses the proxy that this variable names; the host itself need not be reachable then.
    if url.lower().startswith("http") and os.environ.get("http_proxy"):
        return
    try:
        socket.create_connection(host_and_port(url), KNOCK_S).close()
    except OSError as error:
        raise InputError(f"cannot open {redact_url(url)}: {_reason(error)}{password_hint(url)}") from error
    except UnicodeError as error:  # a label of the name is empty, or longer than 63 characters
        raise InputError(f"cannot open {redact_url(url)}: invalid host name") from error


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    if isinstance(error, ConnectionRefusedError):
        return "the host is reachable, but nothing listens on this port"
    if isinstance(error, TimeoutError):
        return f"nothing answers within {KNOCK_S:g} s"
    return (error.strerror or type(error).__name__).lower()
