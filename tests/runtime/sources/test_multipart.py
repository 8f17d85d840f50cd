"""MJPEG over HTTP: the cameras' variants of boundaries and lengths, and limits for hostile ones."""

from __future__ import annotations

import email.message
import io
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from tests.runtime.sources.test_live_http import Camera, CameraServer, jpeg, number
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.sources.bounds import MAX_SENT_BYTES
from twincar_edge.runtime.sources.multipart import MultipartCamera

PICTURES = [jpeg(number, (64, 48)) for number in range(4)]


def part(
    data: bytes, boundary: str = "--frame", length: int | None = None, line: str = "\r\n", head: str = ""
) -> bytes:
    stated = "" if length is None else f"Content-Length: {length}{line}"
    return f"{boundary}{line}Content-Type: image/jpeg{line}{head}{stated}{line}".encode() + data + line.encode()


class Answer(io.RawIOBase):
    """An HTTP response that arrives in small pieces."""

    headers = email.message.Message()

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.given = pieces, 0

    def read1(self, size: int) -> bytes:
        data = next(self.pieces, b"")
        self.given += len(data)
        return data


def camera(data: bytes | Iterator[bytes], at_once: int = 1000, **options: Any) -> MultipartCamera:
    if isinstance(data, bytes):
        data = iter([data[at : at + at_once] for at in range(0, len(data), at_once)])
    return MultipartCamera(Answer(data), "http://camera/video", timeout_s=5.0, **options)  # type: ignore[arg-type]


def shown(camera: MultipartCamera) -> list[int]:
    found = []
    while camera.grab():
        done, image = camera.retrieve()
        found.append(round((float(image[:24, :32].mean()) - 20) / 8) if done else -1)
    return found


def stream(boundary: str = "--frame", **options: Any) -> bytes:
    return b"".join(part(data, boundary, **options) for data in PICTURES) + f"{boundary}--\r\n".encode()


def lengths(change: int) -> bytes:
    return b"".join(part(data, length=len(data) + change) for data in PICTURES) + b"--frame--\r\n"


@pytest.mark.parametrize("at_once", [1, 7, 1000, 100_000])
@pytest.mark.parametrize(
    "data",
    [
        lengths(0),
        stream(),
        stream(line="\n"),
        stream(boundary="--other than announced"),
        stream(boundary="--closing--"),
        stream(head="X-Timestamp: 1\r\n"),
        b"\r\n\r\nA preamble.\r\n" + lengths(0),
        b"".join(part(data + bytes(20), length=len(data) + 20) for data in PICTURES) + b"--frame--\r\n",
    ],
)
def test_every_picture_is_delivered_once_and_complete(
    data: bytes, at_once: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert shown(camera(data, at_once)) == [0, 1, 2, 3]
    assert not caplog.records


@pytest.mark.parametrize("change", [-500, -100, -1, 40, 900, 10**12])
def test_wrong_lengths_are_logged_once_and_the_pictures_delivered(
    change: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert shown(camera(lengths(change))) == [0, 1, 2, 3]
    (record,) = caplog.records
    assert record.getMessage() == (
        "http://camera/video states wrong lengths for its pictures: reading each up to the next boundary"
    )


def test_a_picture_is_delivered_before_the_next_one_arrives() -> None:
    def pieces() -> Iterator[bytes]:
        yield part(PICTURES[0], length=len(PICTURES[0])).removesuffix(b"\r\n")
        raise AssertionError("more is asked for")

    one = camera(pieces())
    assert one.grab() and one.retrieve()[0]


def test_a_stream_with_too_short_lengths_is_live_and_not_reopened(caplog: pytest.LogCaptureFixture) -> None:
    def short(camera: Camera) -> None:
        camera.begin()
        for index in itertools.cycle(range(8)):
            data = jpeg(index, (640, 480))
            camera.send(data, len(data) - 500)
            if not camera.pause(0.01):
                return

    caplog.set_level(logging.WARNING)
    with CameraServer(short) as server, open_source(server.url) as source:
        frames = list(itertools.islice(source, 20))
        assert {number(frame) for frame in frames} <= set(range(8))
        assert (source.status().reconnects, source.skipped, len(server.requests)) == (0, 0, 1)
    assert len(caplog.records) == 1


def zeros() -> Iterator[bytes]:
    yield from itertools.repeat(bytes(2**16))


@pytest.mark.parametrize(
    ("begin", "problem"),
    [
        (b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 999999999\r\n\r\n", "picture larger than 20 MiB"),
        (b"--frame\r\nContent-Type: image/jpeg\r\n\r\n", "picture larger than 20 MiB"),
        (b"--frame\r\n", "no boundary"),
        (b"", "no boundary"),
        (part(PICTURES[0], length=len(PICTURES[0])), "no boundary"),
        (b"--frame\r\n" + b"X-Header: 1\r\n" * 2000, "a part without a picture"),
        (b"a line\r\n" * 5000, "no boundary"),
    ],
)
def test_endless_parts_are_refused_before_they_fill_the_memory(begin: bytes, problem: str) -> None:
    one = camera(itertools.chain([begin], zeros()))
    with pytest.raises(InputError, match=rf"http://camera/video sends {problem}|sends a {problem}"):
        for _ in range(3):
            one.grab()
    assert one._answer.given <= MAX_SENT_BYTES + 2**18  # type: ignore[attr-defined]


def test_a_picture_that_arrives_too_slowly_times_out() -> None:
    now = itertools.count()
    pieces = itertools.chain([b"--frame\r\n\r\n"], itertools.repeat(b"x"))
    with pytest.raises(InputError, match="a picture takes longer than 5 s"):
        camera(pieces, clock=lambda: float(next(now))).grab()


def test_pictures_are_scaled_to_the_size_of_the_first() -> None:
    one = camera(part(PICTURES[0]) + part(jpeg(1, (128, 96))) + b"--frame")
    sizes = []
    while one.grab():
        sizes.append(one.retrieve()[1].shape)
    assert sizes == [(48, 64, 3)] * 2


def test_a_picture_beyond_the_limit_says_how_to_raise_it() -> None:
    large = cv2.imencode(".jpg", np.zeros((100, 200, 3), np.uint8))[1].tobytes()
    one = camera(part(large) + b"--frame", max_pixels=19_999)
    assert one.grab()
    with pytest.raises(InputError, match=r"is 200x100, more than 0\.02 megapixels: `max_frame_megapixels` sets"):
        one.retrieve()


def test_a_picture_without_huffman_tables_is_decoded() -> None:
    """Cameras send Motion JPEG without tables: they are those of the standard."""
    data = bytearray(jpeg(3))
    while (at := data.find(b"\xff\xc4")) >= 0:
        del data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
    assert shown(camera(part(bytes(data)) + b"--frame")) == [3]


def test_an_unparsable_authentication_request_is_a_one_line_error() -> None:
    def asks(camera: Camera) -> None:
        camera.send_response(401)
        camera.send_header("WWW-Authenticate", "Digest realm=")
        camera.end_headers()

    with CameraServer(asks) as server:
        for place in ("/video", "/snap.jpg"):
            url = server.url.replace("/video", place).replace("//", "//admin:secret@")
            with pytest.raises(InputError, match="cannot open") as caught:
                open_source(url)
            assert "secret" not in str(caught.value)
