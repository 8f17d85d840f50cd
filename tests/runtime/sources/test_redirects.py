"""Cameras that redirect: no password is sent to another host, and HTTP redirects to other hosts are refused."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from tests.support.servers import listener_that_drops_connections
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.sources.redirects import on_this_host

OTHER = "127.0.0.2"  # all of 127.0.0.0/8 is loopback
PASSWORD = "s3cret"


class Rtsp:
    """An RTSP server that gives the same answer to every request, and records the requests."""

    def __init__(self, host: str, answer: Callable[[bytes], bytes]) -> None:
        self.got = b""
        self._answer = answer
        self._listener = socket.create_server((host, 0))
        self.url = f"rtsp://{host}:{self._listener.getsockname()[1]}/live"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(10_000):
                self.got += data
                number = data.lower().partition(b"cseq:")[2].split()[0]
                connection.sendall(self._answer(data).replace(b"CSEQ", number))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def asks_for_a_password(_request: bytes) -> bytes:
    return b'RTSP/1.0 401 Unauthorized\r\nCSeq: CSEQ\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'


def redirects_to(url: str) -> Callable[[bytes], bytes]:
    return lambda _request: f"RTSP/1.0 302 Found\r\nCSeq: CSEQ\r\nLocation: {url}\r\n\r\n".encode()


@pytest.fixture
def other() -> Iterator[Rtsp]:
    server = Rtsp(OTHER, asks_for_a_password)
    yield server
    server.close()


def with_password(url: str) -> str:
    return url.replace("://", f"://admin:{PASSWORD}@")


@pytest.mark.parametrize("only", [b"OPTIONS", b"DESCRIBE"])
def test_an_rtsp_redirect_to_another_host_gets_no_password(only: bytes, other: Rtsp) -> None:
    redirect = redirects_to(other.url)

    def answer(request: bytes) -> bytes:
        return redirect(request) if request.startswith(only) else b"RTSP/1.0 200 OK\r\nCSeq: CSEQ\r\n\r\n"

    camera = Rtsp("127.0.0.1", answer)
    try:
        with pytest.raises(InputError, match=rf"redirects to another host, {OTHER}, which is not followed") as caught:
            open_source(with_password(camera.url))
    finally:
        camera.close()
    assert other.got == b""
    assert PASSWORD not in str(caught.value) and b"Authorization" not in camera.got


def test_a_host_whose_first_address_drops_packets_is_asked_where_it_redirects(
    other: Rtsp, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = Rtsp("127.0.0.1", redirects_to(other.url))
    port = int(camera.url.split(":")[2].partition("/")[0])
    with listener_that_drops_connections() as silent:

        def resolve(*_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in (silent, ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with pytest.raises(InputError, match="redirects to another host"):
            on_this_host(with_password(camera.url.replace("127.0.0.1", "camera.example")), timeout_s=0.5)
    camera.close()


def test_a_redirect_on_the_same_host_keeps_the_password(other: Rtsp) -> None:
    target = Rtsp("127.0.0.1", asks_for_a_password)
    camera = Rtsp("127.0.0.1", redirects_to(target.url))
    try:
        assert on_this_host(with_password(camera.url)) == with_password(target.url)
        with pytest.raises(InputError, match="check the path, the user and the password"):
            open_source(with_password(camera.url))
        assert b"Authorization: Basic" in target.got  # FFmpeg has followed the redirect
    finally:
        camera.close()
        target.close()


def test_an_empty_or_invalid_answer_is_not_a_redirect() -> None:
    for answer in (b"\xff" * 100 + b"\r\n\r\n", b"RTSP/1.0 302 Found\r\nCSeq: 1\r\n\r\n", b""):
        camera = Rtsp("127.0.0.1", lambda _request, answer=answer: answer)
        try:
            assert on_this_host(camera.url, timeout_s=0.3) == camera.url
        finally:
            camera.close()


class Page(http.server.BaseHTTPRequestHandler):
    """Redirects /away to another host, and /here to a stream or a single picture on this one."""

    def do_GET(self) -> None:
        assert isinstance(self.server, http.server.ThreadingHTTPServer)
        port = self.server.server_port
        targets = {
            "/away": f"http://{OTHER}:{port}/video",
            "/here": f"http://127.0.0.1:{port}/video",
            "/away.jpg": f"http://{OTHER}:{port}/car.jpg",
            "/here.jpg": "/car.jpg",
            "/loop": "/loop",
            "/loop.jpg": "/loop.jpg",
            "/ftp.jpg": f"ftp://127.0.0.1:{port}/car.jpg",
        }
        if (target := targets.get(self.path)) is not None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        picture = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
        self.send_response(200)
        one = self.path.endswith(".jpg")
        self.send_header("Content-Type", "image/jpeg" if one else "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(OSError):
            if one:
                self.wfile.write(picture)
                return
            for _ in range(200):
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("", 0), Page) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/away", "/away.jpg"])
def test_an_http_redirect_to_another_host_is_refused(path: str, page: str) -> None:
    with pytest.raises(InputError, match=rf"redirects to another host, {OTHER}, which is not followed: name that"):
        open_source(page + path)


@pytest.mark.parametrize("path", ["/here", "/here.jpg"])
def test_an_http_redirect_on_the_same_host_is_followed(path: str, page: str) -> None:
    with open_source(page + path) as source:
        assert next(iter(source)).image_bgr.shape == (48, 64, 3)


@pytest.mark.parametrize("path", ["/loop", "/loop.jpg", "/ftp.jpg"])
def test_an_http_redirect_that_cannot_be_followed_is_named_as_one(path: str, page: str) -> None:
    with pytest.raises(
        InputError, match=r"it answers 302 Found: its redirects form a loop, or lead to no HTTP address"
    ):
        open_source(page + path)
