"""The page's server: HTTPS, a path behind a proxy, monitoring, hostile clients, start and stop."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.runtime.monitoring.test_monitoring import STATUS
from tests.support.event_toys import eventually, visit
from tests.support.pages import ServedPage, served
from tests.support.servers import make_certificates
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.monitoring.health import HealthLimits
from twincar_edge.runtime.page import connections
from twincar_edge.runtime.page.content import Running
from twincar_edge.runtime.page.pictures import LivePictures


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    with served(tmp_path_factory.mktemp("page"), [visit(id="a")]) as page:
        yield page


def test_a_certificate_enables_https_and_secure_cookies(tmp_path: Path, certificates: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    files = {"certificate": certificates / "server.crt", "key": certificates / "server.key"}
    with served(tmp_path, [visit(id="a")], trusted=trusted, tokens=True, **files) as page:
        assert page.server.url == f"https://127.0.0.1:{page.port}/"
        answer = page.log_in()
        assert "secure" in answer.headers["Set-Cookie"].lower().split("; ")
        assert page.get("/visits/a", Origin=page.server.url.rstrip("/")).status == 200
        with socket.create_connection(("127.0.0.1", page.port), 20) as plain:
            plain.sendall(b"GET /visits HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"200" not in plain.recv(1000)


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        ("gone.crt", "server.key", "no such file"),
        ("server.crt", "stranger.key", "cannot serve the page over HTTPS"),
        ("names", "server.key", "cannot serve the page over HTTPS"),
    ],
)
def test_an_invalid_certificate_or_key_is_a_one_line_error(
    tmp_path: Path, certificates: Path, certificate: str, key: str, why: str
) -> None:
    files = {"certificate": certificates / certificate, "key": certificates / key}
    with pytest.raises(InputError, match=why), served(tmp_path, **files):
        pass


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(InputError, match="`certificate` and `key` belong together"):
        PageSettings(certificate=Path("a.crt"))


def test_behind_a_proxy_every_address_starts_with_the_root_path(tmp_path: Path) -> None:
    """The proxy strips the path, as with the documented settings for Caddy and nginx."""
    with served(tmp_path, [visit(id="a", crop="a.jpg")], tokens=True, root_path="/cars") as page:
        forwarded = {"X_Forwarded_For": "203.0.113.7", "X_Forwarded_Proto": "https"}
        assert page.get("/static/style.css", **forwarded).status == 200
        assert page.get("/visits", **forwarded).headers["Location"] == "/cars/login?next=%2Fcars%2Fvisits"
        assert 'action="/cars/login?next=/cars/visits"' in page.get("/login?next=%2Fcars%2Fvisits").text
        answer = page.log_in(to="/cars/visits")
        assert answer.headers["Location"] == "/cars/visits"
        assert "path=/cars;" in answer.headers["Set-Cookie"]
        for path in ("/", "/visits", "/visits/a"):
            text = page.get(path, **forwarded).text
            for attribute in ('href="', 'src="', 'action="'):
                rest = [part.split('"')[0] for part in text.split(attribute)[1:]]
                assert [
                    address for address in rest if address.startswith("/") and not address.startswith("/cars/")
                ] == []
        assert 'href="/cars/visits" aria-current="page"' in page.get("/visits").text


def test_metrics_and_health_of_the_loop_are_on_the_page(tmp_path: Path) -> None:
    running = Running(lambda: STATUS, HealthLimits(), LivePictures([CameraConfig(name="gate")]))
    with served(tmp_path, running=running, tokens=True) as page:
        health = page.ask("GET", "/healthz")  # a watchdog has no token
        assert (health.status, health.headers["Content-Type"]) == (503, "application/json")
        assert b"no frame from camera yard yet" in health.body
        assert page.ask("GET", "/metrics").status == 401
        scraped = page.ask("GET", "/metrics", Authorization=f"Bearer {page.server.first_token}")
        assert b'twincar_frames_total{camera="gate"} 900.0' in scraped.body


def test_without_a_loop_metrics_and_health_are_not_found(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        assert page.get("/healthz").status == page.get("/metrics").status == 404


def _connect(page: ServedPage) -> socket.socket:
    return socket.create_connection(("127.0.0.1", page.port), 20)


def _is_cut(client: socket.socket) -> bool:
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /visits HT",
        b"GET /visits HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /visits HT",
        b"POST /logout HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n" + b"a" * 2**20,
    ],
    ids=["nothing", "half a request", "half a second request", "a body without end"],
)
def test_silent_clients_are_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "IDLE_CHECK_S", 0.1)
    with served(tmp_path) as page, _connect(page) as client:
        client.sendall(sent)
        assert _is_cut(client)
        assert page.get("/").status == 200


HALF_A_BODY = (
    b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\nt"
)
GET_STYLE = b"GET /static/style.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", HALF_A_BODY], ids=["nothing", "half a body"])
def test_clients_that_keep_the_page_waiting_do_not_block_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "MAX_CLIENTS", 4)
    with served(tmp_path, tokens=True) as page, ExitStack() as stack:
        clients = [stack.enter_context(_connect(page)) for _ in range(6)]
        for client in clients[-3:]:
            client.sendall(sent)
        assert page.get("/login").status == 200
        assert _is_cut(clients[0]) and _is_cut(clients[1])


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs a socket option of Linux")
def test_a_client_that_reads_nothing_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_TIMEOUT_S", 0.5)
    with served(tmp_path) as page, _connect(page) as client:
        client.sendall(GET_STYLE * 500)
        running = page.server._server
        assert isinstance(running, connections.LimitedServer)
        eventually(lambda: len(running._clients) == 1, "the client is connected")
        eventually(lambda: not running._clients, "the client is disconnected")
        assert page.get("/").status == 200


def test_one_connection_too_many_closes_the_oldest_of_the_busiest_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live views of the same address go on while another client keeps the page waiting."""
    monkeypatch.setattr(connections, "MAX_CLIENTS", 4)
    with served(tmp_path) as page, ExitStack() as stack:
        other = stack.enter_context(socket.create_connection(("127.0.0.1", page.port), 20, ("127.0.0.2", 0)))
        live = [stack.enter_context(_connect(page)) for _ in range(3)]
        for client in live:
            client.sendall(b"GET /visits.stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert client.recv(4096)
        idle = stack.enter_context(_connect(page))
        assert _is_cut(live[0])
        assert page.get("/").status == 200
        assert _is_cut(idle)
        other.sendall(b"GET /visits HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert other.recv(4096).startswith(b"HTTP/1.1 200 ")
        for client in live[1:]:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):  # neither closed nor in need of an answer
                while client.recv(4096):
                    pass


def test_clients_without_a_tls_handshake_do_not_use_up_file_descriptors(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CLIENTS", 4)
    trusted = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    files = {"certificate": certificates / "server.crt", "key": certificates / "server.key"}
    with served(tmp_path, trusted=trusted, **files) as page, ExitStack() as stack:
        silent = [stack.enter_context(_connect(page)) for _ in range(20)]
        assert page.get("/").status == 200
        assert all(_is_cut(client) for client in silent[:17])
        monkeypatch.setattr(connections, "IDLE_CHECK_S", 0.1)
        assert _is_cut(stack.enter_context(_connect(page)))


def test_an_exhausted_process_logs_one_line_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "_ACCEPT_RETRY_S", 0.01)
    accept, left = socket.socket.accept, [5]

    def failing(listener: socket.socket) -> tuple[socket.socket, object]:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    with served(tmp_path) as page:
        monkeypatch.setattr(socket.socket, "accept", failing)
        assert page.get("/").status == page.get("/").status == 200
    assert left == [0]
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == [
        "the page cannot accept connections: Too many open files"
    ]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\xff\xfe\x00\r\n\r\n",
        b"GET /visits HTTP/9.9\r\nConnection: close\r\n\r\n",
        b"GET " + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /%ff%00?%ff=\xff HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /visits?since=9999-99-99&until=1&before=0001-01-01&level=x&name=%00 HTTP/1.1\r\n"
        b"Host: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
    ids=["noise", "version", "long", "not utf-8", "websocket", "two hosts", "odd query"],
)
def test_invalid_requests_are_not_logged(
    page: ServedPage,
    request_bytes: bytes,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with _connect(page) as client:
        client.sendall(request_bytes)
        assert _is_cut(client)
    assert page.get("/").status == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", ["login", "try"])
def test_a_client_that_leaves_during_its_request_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    kind = b"multipart/form-data; boundary=x" if path == "try" else b"application/x-www-form-urlencoded"
    with served(tmp_path, tokens=path == "login") as page:
        with _connect(page) as client:
            head = b"POST /%b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\nContent-Type: %b\r\n\r\n--x"
            client.sendall(head % (path.encode(), kind))
            running = page.server._server
            assert running is not None
            eventually(lambda: running.server_state.tasks, "the request runs")
        eventually(lambda: not running.server_state.tasks, "the request has ended")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("sent", [HALF_A_BODY, GET_STYLE * 500], ids=["half a body", "nothing is read"])
def test_clients_that_keep_the_page_waiting_are_not_logged_when_it_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with ExitStack() as stack, served(tmp_path, tokens=True) as page:
        client = stack.enter_context(_connect(page))
        client.sendall(sent)
        running = page.server._server
        assert isinstance(running, connections.LimitedServer)

        def waits() -> bool:
            one = next(iter(running._clients.values()), None)
            cycle = one and one.cycle
            return bool(one and cycle and not cycle.response_complete and (cycle.more_body or one.flow.write_paused))

        eventually(waits, "the page waits for the client")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_server_stops_listening_and_ends_its_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with served(tmp_path) as page, _connect(page) as client:
        client.sendall(b"GET /vis")
        page.get("/")
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert [thread for thread in threading.enumerate() if thread not in before and "page" in thread.name] == []
    with pytest.raises(ConnectionRefusedError):
        page.get("/")


def test_a_port_in_use_is_a_one_line_error(tmp_path: Path) -> None:
    with (
        served(tmp_path / "one") as first,
        pytest.raises(InputError, match=r"cannot serve the page at 127.0.0.1:\d+: .*in use"),
        served(tmp_path / "two", address=f"127.0.0.1:{first.port}"),
    ):
        pass


def test_a_page_without_a_store_shows_no_visits(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        assert not page.content.store.exists()
        assert "No vehicle has passed yet" in page.get("/").text
        assert page.get("/visits/a").status == 404


def test_only_a_running_loop_says_that_a_vehicle_is_still_in_view(tmp_path: Path) -> None:
    """A visit that a killed run left open stays so in the store until the next run ends it."""
    left = visit(id="a", type="start", ended_at=None)
    running = Running(lambda: STATUS, HealthLimits(), LivePictures([CameraConfig(name="gate")]))
    for loop, shown in ((None, "not ended"), (running, "in view")):
        with served(tmp_path, [left], running=loop) as page:
            assert f'<span class="none">{shown}</span>' in page.get("/visits").text
            assert f"<dd>{'still ' if loop else ''}{shown}</dd>" in page.get("/visits/a").text
