"""HTTP cameras with one picture per request: they are polled, and never end by themselves."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import pytest

from tests.runtime.sources.test_live_http import Camera, CameraServer, film, jpeg, number
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.sources.polled import PolledCamera

POLL_S = 0.05


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twincar_edge.runtime.sources.network.DEFAULT_POLL_S", POLL_S)


def picture(index: int, *headers: tuple[str, str]) -> Callable[[Camera], None]:
    def behave(camera: Camera) -> None:
        data = jpeg(index)
        camera.send_response(200)
        for name, value in (("Content-Type", "image/jpeg"), ("Content-Length", str(len(data))), *headers):
            camera.send_header(name, value)
        camera.end_headers()
        camera.wfile.write(data)

    return behave


def polled(server: CameraServer, *, timeout_s: float = 5.0) -> PolledCamera:
    return PolledCamera(server.url, POLL_S, timeout_s=timeout_s, stop=threading.Event())


def shown(camera: PolledCamera) -> int:
    assert camera.grab()
    done, image = camera.retrieve()
    assert done
    return round((float(image[:24, :32].mean()) - 20) / 8)


@pytest.mark.parametrize("place", ["/snap.jpg", "/snap.JPG?channel=1", "/snapshot.cgi"])
def test_a_snapshot_address_is_a_camera_that_never_ends(place: str) -> None:
    poll_s = POLL_S if place.endswith("cgi") else None
    with CameraServer(*map(picture, range(9))) as server:
        with open_source(server.url.replace("/video", place), poll_s=poll_s) as source:
            assert (source.kind, source.live) == ("stream", True)
            camera = iter(source)
            frames = [next(camera) for _ in range(3)]
            assert source.status().state == "live" and source.status().reconnects == 0
        assert [number(frame) for frame in frames] == sorted({number(frame) for frame in frames})
        assert len(server.requests) < 9


def test_an_address_whose_video_ends_after_one_picture_is_polled() -> None:
    with CameraServer(*map(picture, range(8))) as server, open_source(server.url) as source:
        camera = iter(source)
        found = [number(next(camera)) for _ in range(4)]
        assert found == sorted(set(found))
        assert source.status().reconnects == 1  # switches from FFmpeg, which reads one picture, to polling


def test_the_pictures_of_a_camera_that_is_polled_seldom_are_not_late() -> None:
    with CameraServer(picture(0)) as server, open_source(server.url.replace("/video", "/1.jpg"), poll_s=60.0) as source:
        frames = iter(source)
        next(frames)
        assert (source.status().state, source.status().late_after_s) == ("live", 122.0)


def test_the_poll_interval_is_used() -> None:
    with CameraServer(picture(0)) as server:
        camera, begun_s = polled(server), time.monotonic()
        for _ in range(5):
            camera.grab()
        assert time.monotonic() - begun_s >= 4 * POLL_S * 0.8
        assert len(server.requests) == 5


def test_an_unchanged_picture_is_not_downloaded_again() -> None:
    asked: list[tuple[str | None, str | None]] = []
    day = "Fri, 28 Nov 2025 10:00:00 GMT"

    def unchanged(camera: Camera) -> None:
        asked.append((camera.headers["If-None-Match"], camera.headers["If-Modified-Since"]))
        camera.send_response(304)
        camera.end_headers()

    with CameraServer(picture(3, ("ETag", '"a"'), ("Last-Modified", day)), unchanged, picture(4), picture(5)) as server:
        camera = polled(server)
        assert [shown(camera) for _ in range(4)] == [3, 3, 4, 5]
    assert asked == [('"a"', day)]


@pytest.mark.parametrize(
    ("place", "poll_s", "message"),
    [("/snap.jpg", None, "answers with text/html"), ("/video", 1.0, "answers with text/html, not with a picture")],
)
def test_a_page_is_not_a_picture(place: str, poll_s: float | None, message: str) -> None:
    def page(camera: Camera) -> None:
        camera.begin("text/html")
        camera.wfile.write(b"<html>log in</html>")

    with CameraServer(page) as server, pytest.raises(InputError, match=message) as caught:
        open_source(server.url.replace("/video", place).replace("//", "//admin:secret@"), poll_s=poll_s)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_stream_with_a_snapshot_like_address_is_read_as_a_stream() -> None:
    with CameraServer(film(0)) as server, open_source(server.url.replace("/video", "/video.jpg")) as source:
        camera = iter(source)
        assert number(next(camera)) < number(next(camera))


@pytest.mark.parametrize("kind", ["application/octet-stream", None])
def test_a_picture_without_a_type_is_a_picture(kind: str | None) -> None:
    def untyped(camera: Camera) -> None:
        camera.send_response(200)
        if kind:
            camera.send_header("Content-Type", kind)
        camera.end_headers()
        camera.wfile.write(jpeg(5))

    with CameraServer(untyped) as server:
        assert shown(polled(server)) == 5


def test_a_truncated_picture_is_skipped_and_the_next_one_delivered() -> None:
    def half(camera: Camera) -> None:
        camera.begin("image/jpeg")
        camera.wfile.write(jpeg(1)[:200])

    with CameraServer(picture(0), half, picture(2)) as server, open_source(server.url, poll_s=POLL_S) as source:
        assert number(next(frame for frame in source if number(frame) != 0)) == 2
        assert source.skip_reasons == {"undecodable frame": 1}


def test_endless_responses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twincar_edge.runtime.sources.polled.MAX_SENT_BYTES", 2**20)

    def endless(camera: Camera) -> None:
        camera.begin("image/jpeg")
        while True:
            camera.wfile.write(bytes(2**16))

    def trickle(camera: Camera) -> None:
        camera.begin("image/jpeg")
        while camera.pause(0.02):
            camera.wfile.write(b"x")

    with CameraServer(endless, trickle) as server:
        with pytest.raises(InputError, match="larger than"):
            polled(server)
        with pytest.raises(InputError, match=r"takes longer than 0\.3 s"):
            polled(server, timeout_s=0.3)


def test_a_password_is_sent_only_on_request_and_appears_in_no_message() -> None:
    def wants_a_password(camera: Camera) -> None:
        if camera.headers["Authorization"] == "Basic YWRtaW46YSNi":  # admin:a#b
            picture(0)(camera)
            return
        camera.send_response(401)
        camera.send_header("WWW-Authenticate", 'Basic realm="camera"')
        camera.end_headers()

    with CameraServer(wants_a_password) as server:
        place = server.url.partition("//")[2].replace("/video", "/snap.jpg")
        with open_source(f"http://admin:a#b@{place}") as source:
            assert number(next(iter(source))) == 0
        with pytest.raises(InputError, match="answers 401 Unauthorized") as caught:
            open_source(f"http://admin:wrong-secret@{place}")
    assert "secret" not in str(caught.value)
    gc.collect()  # open connections would be warnings, which are errors


def test_polling_is_refused_for_other_schemes_than_http() -> None:
    with pytest.raises(InputError, match=r"cannot poll rtsp://cam/live: `poll_s` is for http"):
        open_source("rtsp://cam/live", poll_s=1.0)


@pytest.mark.parametrize(("given", "seconds"), [("1s", 1.0), ("2m", 120.0), ("0.5", 0.5), (3, 3.0)])
def test_poll_takes_a_duration_or_seconds(given: object, seconds: float) -> None:
    assert CameraConfig.model_validate({"source": "http://camera/shot.jpg", "poll_s": given}).poll_s == seconds
