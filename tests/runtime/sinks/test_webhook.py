"""Webhooks against a real server: requests, signatures, and the handling of responses."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from tests.runtime.sinks.test_delivery import quick
from tests.support.event_toys import CROP, eventually, visit, visits
from tests.support.servers import free_port, listener_that_drops_connections, web_server
from twincar_edge.errors import InputError
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks import Delivery, DeliveryError, DeliveryPolicy, RefusedError, Spool
from twincar_edge.runtime.sinks.exchange import Exchange
from twincar_edge.runtime.sinks.opening import open_sinks
from twincar_edge.runtime.sinks.settings import WebhookSettings
from twincar_edge.runtime.sinks.webhook import Webhook, message_id, parse_target
from twincar_edge.runtime.storage.state import StateFolder

KEY = bytes(range(32))
SECRET = b"whsec_" + base64.b64encode(KEY)


@dataclass
class Request:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A web server that responds with `statuses` in order, then repeats the last one."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [204])
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def ids(self) -> list[str]:
        return [Event.model_validate_json(request.body).id for request in self.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.requests.append(Request(self.path, dict(self.headers), body))
            self.send_response(state.statuses.pop(0) if len(state.statuses) > 1 else state.statuses[0])
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with web_server(Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/hook?token=t0ken"
        yield state


def post(receiver: Receiver, event: Event | None = None, **options: Any) -> Request:
    with Webhook(receiver.url, **options) as sink:
        sink.write(event or visit(), CROP)
    return receiver.requests[-1]


# --- requests ---


def test_a_request_is_the_events_json(receiver: Receiver) -> None:
    event = visit(name="Škoda Octavia Wagon 2012")
    request = post(receiver, event)
    assert Event.model_validate_json(request.body) == event
    assert request.path == "/hook?token=t0ken"
    assert request.headers["Content-Type"] == "application/json"
    assert not any("signature" in name.lower() for name in request.headers)


@pytest.mark.parametrize(
    ("secret", "verifier"), [(SECRET, SECRET.decode()), (b"geheim", b"geheim")], ids=["whsec", "plain text"]
)
def test_the_verifier_of_standard_webhooks_accepts_a_request(
    receiver: Receiver, secret: bytes, verifier: str | bytes
) -> None:
    request = post(receiver, secret=secret)
    assert standardwebhooks.Webhook(verifier).verify(request.body, request.headers)["id"] == visit().id


@pytest.mark.parametrize(
    "change",
    [
        lambda request: setattr(request, "body", request.body.replace(b"Castor", b"Pollux")),
        lambda request: request.headers.update({"webhook-id": "another"}),
        lambda request: request.headers.update(
            {"webhook-timestamp": str(int(request.headers["webhook-timestamp"]) - 1)}
        ),
    ],
    ids=["body", "id", "timestamp"],
)
def test_the_verifier_rejects_a_modified_request(receiver: Receiver, change: Callable[[Request], None]) -> None:
    request = post(receiver, secret=SECRET)
    change(request)
    with pytest.raises(standardwebhooks.WebhookVerificationError, match="signature"):
        standardwebhooks.Webhook(SECRET.decode()).verify(request.body, request.headers)


def test_the_verifier_rejects_a_replayed_request(receiver: Receiver) -> None:
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).timestamp()
    request = post(receiver, secret=SECRET, clock=lambda: an_hour_ago)
    with pytest.raises(standardwebhooks.WebhookVerificationError, match="too old"):
        standardwebhooks.Webhook(SECRET.decode()).verify(request.body, request.headers)


def test_requests_have_the_deprecated_headers(receiver: Receiver) -> None:
    request = post(receiver, secret=SECRET)
    content = request.headers["X-Twincar-Timestamp"].encode() + b"." + request.body
    assert request.headers["X-Twincar-Signature"] == "sha256=" + hmac.new(SECRET, content, hashlib.sha256).hexdigest()
    assert request.headers["Idempotency-Key"] == request.headers["webhook-id"]


def test_a_retry_has_the_same_id_and_a_new_timestamp(receiver: Receiver) -> None:
    now = [1_700_000_000.0]
    receiver.statuses = [503, 204]
    with Webhook(receiver.url, secret=SECRET, clock=lambda: now[0]) as sink:
        with pytest.raises(DeliveryError):
            sink.write(visit(), CROP)
        now[0] += 60
    post(receiver, secret=SECRET, clock=lambda: now[0])  # as after a restart
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    times = [int(request.headers["webhook-timestamp"]) for request in receiver.requests]
    assert times == [1_700_000_000, 1_700_000_060]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_message_ids_are_unique_and_contain_no_full_stop() -> None:
    events = [
        visit(type="start"),
        visit(type="update"),
        visit(type="update", crops=5),
        visit(),
        visit(id="a.b"),
        visit(id="a.ä"),
    ]
    ids = [id_of(event) for event in events]
    assert len(set(ids)) == len(events)
    assert not any("." in id for id in ids)


def id_of(event: Event) -> str:
    return message_id(event, event.to_json().encode())


def test_an_image_that_is_read_again_has_the_same_message_id_unless_the_answer_differs() -> None:
    first = visit(recording="0" * 64, crop="2025-03-01-a.jpg")
    again = first.model_copy(update={"started_at": datetime.now(UTC), "ended_at": datetime.now(UTC), "crop": "b.jpg"})
    assert id_of(again) == id_of(first)
    assert id_of(again.model_copy(update={"probability": 0.8})) != id_of(first)
    assert id_of(again.model_copy(update={"recording": None})) != id_of(first)


def test_user_and_password_of_the_url_are_sent_as_http_basic_and_never_shown(receiver: Receiver) -> None:
    url = receiver.url.replace("http://", "http://box:geh%40im@")
    receiver.statuses = [401]
    with Webhook(url) as sink, pytest.raises(DeliveryError) as caught:
        sink.write(visit(), CROP)
    assert receiver.requests[0].headers["Authorization"] == "Basic " + base64.b64encode(b"box:geh@im").decode()
    assert "geh" not in str(caught.value) + parse_target(url).name
    assert "t0ken" not in str(caught.value) + parse_target(url).name


# --- secrets ---


@pytest.mark.parametrize("secret", [b"whsec_", b"whsec_geheim!", b"whsec_geheim"])
def test_a_malformed_secret_is_an_error_that_does_not_show_it(secret: bytes) -> None:
    with pytest.raises(InputError, match="base64") as caught:
        Webhook("http://127.0.0.1/hook", secret=secret)
    assert "geheim" not in str(caught.value)


def test_a_secret_is_read_from_a_file_or_the_environment(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    settings = WebhookSettings(url=receiver.url)
    for number, (secret_file, environ) in enumerate(
        [(tmp_path / "secret", {}), (None, {"TWINCAR_WEBHOOK_SECRET": SECRET.decode()})]
    ):
        options = settings.model_copy(update={"secret_file": secret_file})
        with StateFolder(tmp_path / str(number)) as state:
            (delivery,) = open_sinks([options], state, environ=environ)
            with delivery:
                delivery.put(visit())
        request = receiver.requests[number]
        standardwebhooks.Webhook(SECRET.decode()).verify(request.body, request.headers)


# --- responses ---


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_status_about_the_event_is_a_refusal(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    with Webhook(receiver.url) as sink, pytest.raises(RefusedError, match=f"HTTP {status}"):
        sink.write(visit(), CROP)


@pytest.mark.parametrize(
    ("status", "wait_s"), [(301, 60), (401, 60), (404, 60), (408, None), (425, None), (429, None), (500, None)]
)
def test_a_status_about_the_receiver_is_retryable(receiver: Receiver, status: int, wait_s: float | None) -> None:
    receiver.statuses = [status]
    with Webhook(receiver.url) as sink, pytest.raises(DeliveryError, match=f"HTTP {status}") as caught:
        sink.write(visit(), CROP)
    assert not isinstance(caught.value, RefusedError)
    assert caught.value.retry_after_s == wait_s


NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [
        ("120", 120),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        ("999999999", 3600),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after_is_read_and_limited_to_an_hour(receiver: Receiver, retry_after: str, wait_s: float | None) -> None:
    receiver.statuses, receiver.headers = [503], {"Retry-After": retry_after}
    with Webhook(receiver.url, clock=NOW.timestamp) as sink, pytest.raises(DeliveryError) as caught:
        sink.write(visit(), CROP)
    assert caught.value.retry_after_s == wait_s


def test_a_refused_connection_is_retryable() -> None:
    with Webhook(f"http://127.0.0.1:{free_port()}/") as sink, pytest.raises(DeliveryError, match="Connection refused"):
        sink.write(visit(), CROP)


def test_every_event_arrives_once_and_in_order_at_an_unreliable_receiver(receiver: Receiver, tmp_path: Path) -> None:
    receiver.statuses = [*([204] * 5 + [503]) * 3, 422, 204, 422, 204]  # the 16th event is refused twice
    messages: list[str] = []
    spool = Spool(tmp_path / "spool")
    policy = DeliveryPolicy(drain_s=20.0)
    with Delivery(
        Webhook(receiver.url), "hook", policy, spool=spool, backoff=quick(), on_problem=messages.append
    ) as sending:
        for event in visits(20):
            sending.put(event)
        eventually(lambda: sending.status().delivered == 19, "all but the refused one")
    accepted = [
        id
        for id, status in zip(receiver.ids(), [*([204] * 5 + [503]) * 3, 422, 204, 422, *[204] * 9], strict=False)
        if status == 204
    ]
    assert accepted == [str(number) for number in range(20) if number != 15]
    assert (sending.status().dropped, sending.status().aside) == (0, 1)


# --- receivers that stall a request ---


def _trickle(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"a")
        time.sleep(0.02)


def _continue_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.001)


def _trickle_in_the_tls_handshake(connection: socket.socket) -> None:
    connection.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 kB
    while True:
        connection.sendall(b"\x00")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("scheme", "behave"),
    [("http", _trickle), ("http", _continue_for_ever), ("https", _trickle_in_the_tls_handshake)],
    ids=["trickle", "100 Continue", "TLS handshake"],
)
def test_a_trickling_receiver_is_disconnected_at_the_deadline(
    scheme: str, behave: Callable[[socket.socket], None]
) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            behave(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"
        with Webhook(url, timeout_s=0.3) as sink, pytest.raises(DeliveryError, match="no answer in time"):
            sink.write(visit(), CROP)
        thread.join(20)  # it sends until its connection is closed
        assert not thread.is_alive()


def test_a_hanging_name_lookup_ends_at_the_deadline_and_is_not_started_twice() -> None:
    lookups, go = [], threading.Event()

    def resolve(*_: object, **__: object) -> list[object]:
        lookups.append(threading.current_thread())
        go.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    exchange = Exchange("receiver.example", 80, 0.05, resolve=resolve)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            exchange.post("/", b"", {})
    assert len(lookups) == 1
    go.set()
    lookups[0].join(20)
    with pytest.raises(socket.gaierror):
        exchange.post("/", b"", {})


def test_a_second_address_is_reached_if_the_first_one_drops_packets(receiver: Receiver) -> None:
    port = int(receiver.url.split(":")[2].partition("/")[0])
    with listener_that_drops_connections() as silent:

        def resolve(*_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in (silent, ("127.0.0.1", port))]

        response = Exchange("receiver.example", port, 2.0, resolve=resolve).post("/", b"", {})
    assert response.status == 204


# --- URLs ---


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "http://",
        "http:///path",
        "https://host:port/",
        "http://ho st/",
        "http://host/ä",
        "hook",
        f"http://{'x' * 64}.local/",
        "http://a..b/",
    ],
)
def test_an_invalid_url_is_a_one_line_error(url: str) -> None:
    with pytest.raises(InputError, match="invalid webhook URL") as caught:
        parse_target(url)
    assert "\n" not in str(caught.value)
