"""Snapshot cameras: an HTTP address that returns one picture per request is polled."""

from __future__ import annotations

import email.message
import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.runtime.sources.base import redact_url
from twincar_edge.runtime.sources.bounds import MAX_FRAME_PIXELS, MAX_SENT_BYTES, decode_sent
from twincar_edge.runtime.sources.http_client import FAILURES, HEADERS, http_opener, request_error

DEFAULT_POLL_S = 1.0
_CHUNK = 2**16
_NOT_MODIFIED = 304
_UNNAMED = "application/octet-stream"  # files of an unknown type, and pictures of some cameras


class NotOnePicture(InputError):
    """The response is not a single picture; it may be video."""


class PolledCamera:
    """One picture per request, as a `Capture`. On 304 Not Modified, the last picture is returned again."""

    def __init__(
        self,
        url: str,
        poll_s: float,
        *,
        timeout_s: float,
        stop: threading.Event,
        max_pixels: int = MAX_FRAME_PIXELS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Request the first picture.

        Args:
            url: with user and password in it, for basic or digest authentication.
            poll_s: from the start of one request to the start of the next.
            timeout_s: for one picture, from the request to its last byte.
            stop: ends the wait between pictures.
            max_pixels: the largest picture that is decoded.
            clock: seconds.

        Raises:
            NotOnePicture: the response is not a single picture; it may be video.
            InputError: the response is text, or the request failed.
        """
        self._name = redact_url(url)
        self._url, self._opener = http_opener(url)
        self._poll_s, self._timeout_s, self._stop, self._clock = poll_s, timeout_s, stop, clock
        self._max_pixels = max_pixels
        self._data = b""
        self._image_bgr: NDArray[np.uint8] | None = None
        self._validators: dict[str, str] = {}
        self._waiting = True  # the first picture has not been grabbed yet
        self._fetch()

    def isOpened(self) -> bool:  # noqa: D102
        return True

    def get(self, propId: int, /) -> float:  # noqa: D102
        return 1 / self._poll_s if propId == cv2.CAP_PROP_FPS else 0.0

    def grab(self) -> bool:
        """Request the next picture when it is due.

        Raises:
            InputError: the request failed.
        """
        if not self._waiting:
            self._stop.wait(max(0.0, self._asked_s + self._poll_s - self._clock()))
            self._fetch()
        self._waiting = False
        return True

    def retrieve(self) -> tuple[bool, Any]:
        """Decode the picture.

        Raises:
            InputError: it is larger than `max_pixels`.
        """
        if self._image_bgr is None:
            self._image_bgr = decode_sent(self._data, self._name, self._max_pixels)
        return self._image_bgr is not None, self._image_bgr

    def release(self) -> None:  # noqa: D102
        self._opener.close()

    def _fetch(self) -> None:
        self._asked_s = self._clock()
        headers = {**HEADERS, **self._validators}
        try:
            with self._opener.open(urllib.request.Request(self._url, headers=headers), timeout=self._timeout_s) as got:
                self._check_type(got.headers)
                self._data = self._read(got)
                self._image_bgr = None
                self._validators = _validators(got.headers)
        except urllib.error.HTTPError as error:
            if error.code == _NOT_MODIFIED and self._data:
                error.close()
                return
            raise request_error(self._name, error) from error
        except FAILURES as error:
            raise request_error(self._name, error) from error

    def _check_type(self, headers: email.message.Message) -> None:
        kind = headers.get_content_type()
        if kind.startswith("image/") or kind == _UNNAMED or "Content-Type" not in headers:
            return
        error = InputError if kind.startswith("text/") else NotOnePicture
        raise error(f"cannot open {self._name}: it answers with {kind[:60]}, not with a picture (image/jpeg)")

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        data = bytearray()
        while part := answer.read1(_CHUNK):
            data += part
            if len(data) > MAX_SENT_BYTES:
                raise InputError(f"cannot open {self._name}: the picture is larger than {MAX_SENT_BYTES >> 20} MiB")
            if self._clock() - self._asked_s > self._timeout_s:
                raise InputError(f"cannot open {self._name}: a picture takes longer than {self._timeout_s:g} s")
        return bytes(data)


def _validators(headers: email.message.Message) -> dict[str, str]:
    """Return the headers of a conditional request (RFC 9110, 13.1)."""
    found = {"If-None-Match": headers.get("ETag"), "If-Modified-Since": headers.get("Last-Modified")}
    return {name: value for name, value in found.items() if value}
