"""HTTP cameras (MJPEG) on real loopback servers: their faults, and that frames resume."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from tests.support.event_toys import eventually
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import Frame, open_source
from twincar_edge.runtime.sources.network import KNOCK_S

SMALL, LARGE = (64, 48), (128, 96)
WAIT_S = 30.0


def jpeg(number: int, size_wh: tuple[int, int] = SMALL) -> bytes:
    """A picture whose brightness encodes its number, with one white corner to check its orientation."""
    width, height = size_wh
    picture = np.full((height, width, 3), 20 + 8 * number, np.uint8)
    picture[height * 3 // 4 :, width * 3 // 4 :] = 255
    return cv2.imencode(".jpg", picture)[1].tobytes()


def number(frame: Frame) -> int:
    height, width = frame.image_bgr.shape[:2]
    return round((float(frame.image_bgr[: height // 2, : width // 2].mean()) - 20) / 8)


class Camera(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next behavior in its server's list, then always with the last one."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, CameraServer)
        server.requests.append(self.path)
        behavior = server.behaviors.pop(0) if len(server.behaviors) > 1 else server.behaviors[0]
        with contextlib.suppress(OSError):  # the client has disconnected
            behavior(self)

    def begin(self, kind: str = "multipart/x-mixed-replace; boundary=frame") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def send(self, data: bytes, length: int | None = None) -> None:
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {length or len(data)}\r\n\r\n"
        self.wfile.write(head.encode() + data + b"\r\n")

    def pause(self, seconds: float = 0.02) -> bool:
        """Wait as a camera does between pictures; return whether the test is still running."""
        assert isinstance(self.server, CameraServer)
        return not self.server.over.wait(seconds)

    def log_message(self, *_: object) -> None:
        pass


class CameraServer(http.server.ThreadingHTTPServer):
    """A camera's HTTP server at `url`; `requests` has the requested paths."""

    daemon_threads = True

    def __init__(self, *behaviors: Callable[[Camera], None], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Camera)
        self.behaviors = list(behaviors)
        self.requests: list[str] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/video"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


def film(first: int, last: int | None = None, size_wh: tuple[int, int] = SMALL) -> Callable[[Camera], None]:
    """Send a range of pictures, or the last one until the client disconnects, then close the connection."""

    def behave(camera: Camera) -> None:
        camera.begin()
        for index in range(first, first + 8):
            camera.send(jpeg(index, size_wh))
            camera.pause()
        while last is None and camera.pause():
            camera.send(jpeg(first + 7, size_wh))

    return behave


def refuse(camera: Camera) -> None:
    camera.send_error(500)


def web_page(camera: Camera) -> None:
    camera.begin("text/html")
    camera.wfile.write(b"<html>Please log in</html>" * 50)


def garbage(camera: Camera) -> None:
    camera.begin()
    for seed in range(5):
        camera.send(np.random.default_rng(seed).bytes(3000))


def broken_picture(camera: Camera) -> None:
    """Send some pictures, then half of a large one."""
    film(0, 8)(camera)
    data = jpeg(3, (640, 480))
    camera.send(data[: len(data) // 2], len(data))


def falls_silent(camera: Camera) -> None:
    film(0, 8)(camera)
    while camera.pause(0.1):
        pass


def until(frames: Iterator[Frame], wanted: Callable[[Frame], bool]) -> list[Frame]:
    """The frames up to the first one that matches."""
    found = []
    for frame in itertools.islice(frames, 2000):
        found.append(frame)
        if wanted(frame):
            return found
    raise AssertionError("it never came")


def test_an_http_stream_is_live_and_its_password_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with CameraServer(film(0, 8), film(8)) as server:
        url = server.url.replace("//", "//admin:secret@") + "?pwd=secret"
        with open_source(url) as source:
            assert (source.kind, source.live, source.stills) == ("stream", True, False)
            frames = until(iter(source), lambda frame: number(frame) == 15)
        assert [one.index for one in frames] == sorted({one.index for one in frames})
        assert all(one.time_s < other.time_s for one, other in itertools.pairwise(frames))
        told = caplog.text + repr(source) + source.name + repr(frames[0]) + repr(source.status())
        told += "".join(thread.name for thread in threading.enumerate())
        assert "secret" not in told
        assert source.name == f"http://***@127.0.0.1:{server.server_port}/video?***"
        assert f"{source.name} sends no more frames" in caplog.text
        assert f"{source.name} is back" in caplog.text


@pytest.mark.parametrize("fault", [refuse, web_page, garbage, broken_picture], ids=lambda fault: fault.__name__)
def test_frames_resume_after_a_fault_without_incomplete_pictures(fault: Callable[[Camera], None]) -> None:
    with CameraServer(film(0, 8), fault, film(8)) as server, open_source(server.url) as source:
        frames = iter(source)
        found = until(frames, lambda frame: number(frame) == 15)
        assert {number(frame) for frame in found} <= set(range(16))
        assert {frame.image_bgr.shape for frame in found} == {(48, 64, 3)}
        assert all(frame.image_bgr[-4:, -4:].min() > 240 for frame in found)  # complete, down to the last corner
        assert source.status().state == "live"
        assert len(server.requests) == 3


@pytest.mark.parametrize(("fault", "problem"), [(refuse, "it answers 500 "), (web_page, "there is no video: .*html")])
def test_a_response_that_is_not_video_at_the_start_is_a_one_line_error(
    fault: Callable[[Camera], None], problem: str
) -> None:
    with CameraServer(fault) as server, pytest.raises(InputError, match=rf"cannot open \S+: {problem}") as caught:
        open_source(server.url.replace("//", "//admin:secret@"))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_camera_that_is_down_at_the_start_is_retried_with_keep_trying() -> None:
    with socket.socket() as taken:  # a port without a listener
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        source = open_source(f"http://admin:secret@127.0.0.1:{port}/video", keep_trying=True)
        eventually(lambda: source.status().problem, "it says what is wrong", WAIT_S)
    status = source.status()
    assert (status.state, status.frames) == ("waiting", 0)
    assert status.problem is not None
    assert "nothing listens" in status.problem and "secret" not in status.problem
    with CameraServer(film(0), port=port), source:
        assert number(next(iter(source))) in range(8)
        assert source.status().problem is None


def test_after_a_size_change_frames_have_the_new_size(caplog: pytest.LogCaptureFixture) -> None:
    with CameraServer(film(0, 8), film(8, size_wh=LARGE)) as server, open_source(server.url) as source:
        found = until(iter(source), lambda frame: number(frame) == 15)
        assert {frame.image_bgr.shape[:2] for frame in found} == {SMALL[::-1], LARGE[::-1]}
        assert source.status().size_wh == LARGE
    assert "now sends 128x96 instead of 64x48" in caplog.text


def test_a_size_change_within_a_connection_gives_complete_pictures() -> None:
    def behave(camera: Camera) -> None:
        film(0, 8)(camera)
        while camera.pause():
            camera.send(jpeg(12, LARGE))

    with CameraServer(behave) as server, open_source(server.url) as source:
        frame = until(iter(source), lambda frame: number(frame) == 12)[-1]
        assert frame.image_bgr.shape == (
            48,
            64,
            3,
        )  # FFmpeg scales to the size at the start of the connection
        assert frame.image_bgr[-4:, -4:].min() > 240


def test_a_silent_stream_is_stalled_and_reopened_while_others_continue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twincar_edge.runtime.sources.network.NETWORK_TIMEOUT_MS", 2500)
    with (
        CameraServer(falls_silent, film(8)) as server,
        CameraServer(film(0)) as well,
        open_source(server.url) as source,
        open_source(well.url) as other,
    ):
        frames, others = iter(source), iter(other)
        next(frames)
        while source.status().state != "stalled":
            next(others)  # which continues all the time
        while source.status().problem is None:
            next(others)
        assert "has sent nothing for 2.5 s" in (source.status().problem or "")
        until(frames, lambda frame: number(frame) == 15)
        assert (source.status().state, source.status().reconnects) == ("live", 1)
        assert other.status().reconnects == 0


def test_an_unresponsive_host_is_detected_before_ffmpegs_timeout() -> None:
    # A full listen queue silently drops the next connection, as a camera without power does.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        place = server.getsockname()
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(place)
        with pytest.raises(InputError, match=f"nothing answers within {KNOCK_S:g} s"):
            open_source(f"rtsp://admin:secret@127.0.0.1:{place[1]}/live")
