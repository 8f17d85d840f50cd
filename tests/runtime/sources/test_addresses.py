"""URLs of cameras: what is escaped, what is left unchanged, and what is refused with the correct escape sequences."""

from __future__ import annotations

import base64
import socket

import pytest

from tests.runtime.sources.test_live_http import Camera, CameraServer, film
from tests.support.servers import free_port
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.sources.addresses import escape_password, host_and_port, path_of, split_user_info


@pytest.mark.parametrize(
    ("given", "escaped"),
    [
        ("rtsp://u:a#b@cam/live", "rtsp://u:a%23b@cam/live"),
        ("rtsp://u:a/b@cam:8554/live?x=1", "rtsp://u:a%2Fb@cam:8554/live?x=1"),
        ("http://u:a?b/c#d@cam/", "http://u:a%3Fb%2Fc%23d@cam/"),
        ("rtsp://u:1#b@cam/live", "rtsp://u:1%23b@cam/live"),
        ("rtsp://u#1:secret@cam/live", "rtsp://u%231:secret@cam/live"),
        ("rtsp://u:a#b@[fe80::1]:554/live", "rtsp://u:a%23b@[fe80::1]:554/live"),
    ],
)
def test_reserved_characters_that_must_belong_to_the_password_are_escaped(given: str, escaped: str) -> None:
    assert escape_password(given) == escaped
    assert escape_password(escaped) == escaped


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://cam/live",
        "rtsp://u:p@cam/live#t=1",
        "rtsp://u:p@ss@cam/live",
        "rtsp://u:100%@cam/live",
        "http://cam/?mail=a@b",
        "http://cam:80/?mail=a@b",
        "http://cam:80/user:x@y",
        "http://cam:/user:x@y",
        "http://[::1]:80/user:x@y",
        "http://[::1]/user:x@y",
        "rtsp://u:1/b@cam/live",
        "rtsp://u:p@cam/live?to=a@b",
    ],
)
def test_an_ambiguous_url_is_left_unchanged(url: str) -> None:
    assert escape_password(url) == url


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("rtsp://u:p@[fe80::1]:8554/live", ("fe80::1", 8554)),
        ("RTSPS://[::1]/live", ("::1", 322)),
        ("rtsp://u:p@ss@cam/live", ("cam", 554)),
        ("https://cam?a=1", ("cam", 443)),
    ],
)
def test_the_host_and_port_of_a_url_are_parsed(url: str, place: tuple[str, int]) -> None:
    assert host_and_port(url) == place


@pytest.mark.parametrize("keep_trying", [False, True])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rtsp://::1/live", r"write an IPv6 address in brackets"),
        ("rtsp://u:secret@fe80::1:554/live", r"rtsp://\*\*\*@fe80::1:554/live: write an IPv6 address in brackets"),
        ("rtsp://u:secret/live", r"cannot open rtsp://\*\*\*: the port is not a number; .*# as %23"),
        ("rtsp://u:se#cret@a@cam/live", r"the port is not a number; .*# as %23"),
        ("rtsp:///live", "the URL has no host"),
    ],
)
def test_a_url_without_a_valid_host_and_port_is_refused_immediately(url: str, message: str, keep_trying: bool) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(url, keep_trying=keep_trying)
    assert "secret" not in str(caught.value) and "se#cret" not in str(caught.value)


def test_the_error_says_if_the_host_may_be_part_of_a_password() -> None:
    with pytest.raises(InputError, match=r"write # as %23, / as %2F and \? as %3F") as caught:
        open_source("rtsp://127.0.0.1:1/secret@127.0.0.1/live")
    assert "secret" not in str(caught.value)


def test_a_password_with_a_reserved_character_reaches_the_camera() -> None:
    given: list[str] = []

    def wants_a_password(camera: Camera) -> None:
        if "Authorization" not in camera.headers:
            camera.send_response(401)
            camera.send_header("WWW-Authenticate", 'Basic realm="camera"')
            camera.send_header("Content-Length", "0")
            camera.end_headers()
            return
        given.append(camera.headers["Authorization"].removeprefix("Basic "))
        film(0)(camera)

    with CameraServer(wants_a_password) as server:
        with open_source(server.url.replace("//", "//admin:a#/?b@")) as source:
            next(iter(source))
        assert base64.b64decode(given[0]) == b"admin:a#/?b"


def test_an_ipv6_camera_is_reached() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        port = probe.getsockname()[1]
        with pytest.raises(InputError, match="nothing listens on this port") as caught:
            open_source(f"rtsp://admin:a#b@[::1]:{port}/live")
    assert "a#b" not in str(caught.value) and "a%23b" not in str(caught.value)


@pytest.mark.parametrize("password", ["[hunter2]", "hunter2]", "a\uff0fb", "\u2100"])
@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_password_that_urllib_cannot_parse_is_a_one_line_error(scheme: str, password: str) -> None:
    url = f"{scheme}://admin:{password}@127.0.0.1:{free_port()}/snap.jpg?token=1#top"
    assert split_user_info(url) == (f"admin:{password}", url.replace(f"admin:{password}@", ""))
    assert path_of(url) == "/snap.jpg"
    with pytest.raises(InputError) as error:
        open_source(url)
    assert "hunter2" not in str(error.value) and "snap.jpg" in str(error.value)
