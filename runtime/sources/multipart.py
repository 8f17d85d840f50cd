"""MJPEG over HTTP: pictures as the parts of one endless response (`multipart/x-mixed-replace`).

FFmpeg reads it too, but trusts any length that a part states, and buffers data without a boundary without limit.
Source: RFC 2046 section 5.1; comments in the code name cameras' deviations.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2

from twincar_edge.errors import InputError
from twincar_edge.runtime.sources.base import redact_url
from twincar_edge.runtime.sources.bounds import MAX_FRAME_PIXELS, MAX_SENT_BYTES, decode_sent
from twincar_edge.runtime.sources.http_client import FAILURES, HEADERS, http_opener, request_error

logger = logging.getLogger(__name__)

_CHUNK = 2**16
_MAX_HEAD_BYTES = 16 * 2**10  # of a part, and of what comes before the first
_JPEG_END = b"\xff\xd9"
_JPEG_TAIL = 64  # bytes searched for the end marker: cameras add padding


class VideoResponse(NamedTuple):
    """The response of an HTTP address that may be video.

    Attributes:
        pictures: of a multipart response, else None.
        endless: the response states no length, as that of a camera.
    """

    pictures: MultipartCamera | None
    endless: bool


def open_multipart(url: str, *, timeout_s: float, max_pixels: int = MAX_FRAME_PIXELS) -> VideoResponse:
    """Request an HTTP address, and return the pictures of its response, if it is multipart.

    Certificates are not verified; FFmpeg does not verify them for other video either.

    Args:
        url: with user and password in it, for basic or digest authentication.
        timeout_s: for the response to begin, and for each picture.
        max_pixels: the largest picture that is decoded.

    Raises:
        InputError: the server refuses, does not answer in time, or answers with text.
    """
    name = redact_url(url)
    bare, opener = http_opener(url, verify=False)
    try:
        answer: http.client.HTTPResponse = opener.open(urllib.request.Request(bare, headers=HEADERS), timeout=timeout_s)
    except OSError as error:
        raise request_error(name, error) from error
    except FAILURES:  # FFmpeg parses some responses that urllib does not
        return VideoResponse(None, endless=False)
    kind = answer.headers.get_content_type() if "Content-Type" in answer.headers else ""
    if kind.startswith("multipart/"):
        return VideoResponse(MultipartCamera(answer, name, timeout_s=timeout_s, max_pixels=max_pixels), endless=True)
    answer.close()
    if kind == "text/html":
        raise InputError(f"cannot open {name}: there is no video: it answers with {kind}")
    return VideoResponse(None, endless="Content-Length" not in answer.headers)


class MultipartCamera:
    """The pictures of a multipart response, as a `Capture`."""

    def __init__(
        self,
        answer: http.client.HTTPResponse,
        name: str,
        *,
        timeout_s: float,
        max_pixels: int = MAX_FRAME_PIXELS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a response whose header was read.

        Args:
            answer: its socket has a time-out.
            name: the redacted URL.
            timeout_s: for one picture, from the end of the one before to its own.
            max_pixels: the largest picture that is decoded.
            clock: seconds.
        """
        self._answer, self._name = answer, name
        self._timeout_s, self._max_pixels, self._clock = timeout_s, max_pixels, clock
        self._deadline_s = 0.0
        self._buffer = bytearray()
        self._boundary = b""  # the boundary as sent, which may differ from the announced one
        self._picture = b""
        self._size_wh: tuple[int, int] | None = None
        self._reported = False

    def isOpened(self) -> bool:  # noqa: D102
        return True

    def get(self, _propId: int, /) -> float:  # noqa: D102
        return 0.0

    def grab(self) -> bool:
        """Read the next picture; return False at the end of the response or on timeout.

        Raises:
            InputError: a picture is too large or takes too long, or there is no boundary.
        """
        self._deadline_s = self._clock() + self._timeout_s
        try:
            self._skip_to_boundary()
            self._picture = self._body(self._stated_length())
        except (EOFError, *FAILURES):
            return False
        return True

    def retrieve(self) -> tuple[bool, Any]:
        """Decode the picture. All are scaled to the size of the first, as FFmpeg does.

        Raises:
            InputError: it is larger than `max_pixels`.
        """
        image_bgr = decode_sent(self._picture, self._name, self._max_pixels)
        if image_bgr is None:
            return False, None
        height, width = image_bgr.shape[:2]
        self._size_wh = self._size_wh or (width, height)
        if self._size_wh != (width, height):
            return True, cv2.resize(image_bgr, self._size_wh, interpolation=cv2.INTER_AREA)
        return True, image_bgr

    def release(self) -> None:  # noqa: D102
        self._answer.close()

    def _skip_to_boundary(self) -> None:
        """Read up to the end of the next boundary line.

        The first line that begins with two hyphens counts as the boundary: some cameras announce another one, or
        include the hyphens in it.
        """
        skipped = 0
        while True:
            line = self._line()
            if line == self._boundary if self._boundary else line.startswith(b"--"):
                self._boundary = line
                return
            skipped += len(line)
            if self._boundary and line.removesuffix(b"--") != self._boundary and line:
                self._report_lengths()
            if skipped > (MAX_SENT_BYTES if self._boundary else _MAX_HEAD_BYTES):
                raise InputError(f"{self._name} sends no boundary between its pictures")

    def _stated_length(self) -> int | None:
        """Read the header of a part, and return the length that it states."""
        length, read = None, 0
        while line := self._line():
            key, _, value = line.partition(b":")
            if key.strip().lower() == b"content-length" and value.strip().isdigit():
                length = int(value[:20])
            read += len(line)
            if read > _MAX_HEAD_BYTES:
                raise InputError(f"{self._name} sends a part without a picture")
        return length

    def _body(self, length: int | None) -> bytes:
        """Read the picture of a part: up to the next boundary, or to the stated length if the picture ends there.

        The boundary of a live part comes with the next picture, so waiting for it would delay each picture by one.
        Lengths may be wrong, but no picture extends beyond its end marker.
        """
        searched = 0
        while True:
            end = self._buffer.find(b"\n" + self._boundary, searched)
            if end >= 0:
                body = self._take(end).removesuffix(b"\r")
                if length not in (None, len(body), end):
                    self._report_lengths()
                return body
            if length is not None and length <= len(self._buffer) and self._ends_at(length):
                return self._take(length)
            if len(self._buffer) > MAX_SENT_BYTES:
                raise InputError(f"{self._name} sends a picture larger than {MAX_SENT_BYTES >> 20} MiB")
            searched = max(0, len(self._buffer) - len(self._boundary) - 1)
            self._receive()

    def _ends_at(self, length: int) -> bool:
        return self._buffer.find(_JPEG_END, max(0, length - _JPEG_TAIL), length) >= 0

    def _line(self) -> bytes:
        """Remove a line from the buffer, and return it stripped."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise InputError(f"{self._name} sends no boundary between its pictures")
            self._receive()
        return self._take(end + 1).strip()

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _receive(self) -> None:
        if self._clock() > self._deadline_s:
            raise InputError(f"{self._name}: a picture takes longer than {self._timeout_s:g} s")
        data = self._answer.read1(_CHUNK)
        if not data:
            raise EOFError
        self._buffer += data

    def _report_lengths(self) -> None:
        if not self._reported:
            self._reported = True
            logger.warning("%s states wrong lengths for its pictures: reading each up to the next boundary", self._name)
