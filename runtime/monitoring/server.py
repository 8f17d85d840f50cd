"""A small HTTP server for monitoring: `/metrics` for Prometheus, `/healthz` for health checks.

It listens on loopback unless told otherwise, answers nothing but GET, and no client can block it: each connection has
its own thread and ends after some seconds, whatever the client does. Where all threads are in use, the address with the
most connections loses its oldest one.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from twincar_edge._version import __version__
from twincar_edge.runtime.listening import (
    allowed_hosts,
    as_host,
    connection_to_close,
    is_allowed_host,
    is_loopback,
    listen,
    parse_address,
)
from twincar_edge.runtime.monitoring.exposition import Answer, Exposition
from twincar_edge.runtime.monitoring.health import HealthLimits
from twincar_edge.runtime.monitoring.status import LoopStatus

logger = logging.getLogger(__name__)

MOST_CLIENTS = 16
_MOST_THREADS = 2 * MOST_CLIENTS  # those of clients that were cut off end a moment later
CLIENT_TIMEOUT_S = 5.0
_POLL_S = 0.25
_INDEX = (
    "<!doctype html><title>twincar-edge</title><h1>twincar-edge</h1>"
    '<p><a href="healthz">healthz</a>: is it well? <a href="metrics">metrics</a>: for Prometheus.'
)


class Monitoring:
    """Serves a loop's status while the block runs.

    Attributes:
        url: where, ending in a slash.
    """

    def __init__(
        self,
        address: str,
        status: Callable[[], LoopStatus],
        limits: HealthLimits | None = None,
        *,
        client_timeout_s: float = CLIENT_TIMEOUT_S,
    ) -> None:
        """Prepare; nothing listens yet.

        Args:
            address: `HOST:PORT`.
            status: gives a snapshot; called from the server's threads.
            limits: of health; the default ones where not given.
            client_timeout_s: how long a connection may last.

        Raises:
            InputError: the address is invalid.
        """
        self.url = ""
        parse_address(address)
        self._address = address
        self._status = status
        self._limits = limits or HealthLimits()
        self._client_timeout_s = client_timeout_s
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            InputError: the port is in use, may not be used, or the host is not this machine's.
        """
        exposition = Exposition(self._status, self._limits)

        def index(_accept: str) -> Answer:
            return HTTPStatus.OK, "text/html; charset=utf-8", _INDEX.encode()

        pages = {"/": index, "/metrics": exposition.metrics, "/healthz": exposition.health}
        self._server = _Server(listen(self._address, "metrics"), pages, self._client_timeout_s)
        bound = self._server.server_name
        self.url = f"http://{as_host(bound)}:{self._server.server_port}/"
        if not is_loopback(bound):
            logger.warning("metrics are served at %s: everybody who reaches this machine can read them", self.url)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="monitoring", daemon=True
        )
        self._thread.start()
        logger.info("metrics at %smetrics, health at %shealthz", self.url, self.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop listening, cut off who is connected, and wait for the thread."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


Page = Callable[[str], Answer]


class _Server(ThreadingHTTPServer):
    """Threads that nobody waits for, not too many of them, none for ever.

    Attributes:
        pages: what answers, by path.
        hosts: the host names that are answered, or None for any. On loopback, a name that is not this machine's comes
            from a page of another site; beyond it, Prometheus may use any name that the network has for this machine.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, pages: dict[str, Page], client_timeout_s: float) -> None:
        self.pages = pages
        self._client_timeout_s = client_timeout_s
        self._clients: dict[socket.socket, _Client] = {}  # the oldest first
        self._failed: set[str] = set()  # the kinds of errors that the log has
        self._lock = threading.Lock()
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()  # the one that it has made unasked
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.hosts = allowed_hosts(self.server_name) if is_loopback(self.server_name) else None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a client its thread; where too many are connected, another client has to go."""
        client = _Client(client_address[0], time.monotonic() + self._client_timeout_s)
        with self._lock:
            full = len(self._clients) >= _MOST_THREADS
            if not full:
                self._clients[request] = client
                staying = [(other, of) for other, of in self._clients.items() if not of.cut]
                if len(staying) > MOST_CLIENTS:
                    other, of = staying[connection_to_close([of.address for _, of in staying[:-1]])]
                    of.cut = True
                    _cut(other)
        if full:
            self.shutdown_request(request)
        else:
            request.settimeout(self._client_timeout_s)
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the client too."""
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off clients past their time: a byte now and then resets the socket's own timeout."""
        now = time.monotonic()
        with self._lock:
            late = [client for client, of in self._clients.items() if of.until_s < now]
        for client in late:
            _cut(client)

    def server_close(self) -> None:
        """Close the port, and cut off who is still connected."""
        super().server_close()
        with self._lock:
            left = list(self._clients)
        for client in left:
            _cut(client)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log each kind of error once; clients that disconnect or time out are not errors."""
        error = sys.exception()
        kind = type(error).__name__
        if not isinstance(error, OSError) and kind not in self._failed:
            self._failed.add(kind)
            logger.error("a page of the monitoring failed; further errors of this kind are not logged", exc_info=error)


@dataclass
class _Client:
    """Where a connection comes from, when it has to end, and whether it was cut off already."""

    address: str
    until_s: float
    cut: bool = False


class _Handler(BaseHTTPRequestHandler):
    """Looks the page up and sends it; the connection ends with it."""

    server_version = f"twincar-edge/{__version__}"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        """Send a page."""
        page = self.server.pages.get(self.path.partition("?")[0])
        hosts = self.server.hosts
        if hosts is not None and not is_allowed_host(self.headers.get("Host") or "", hosts):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"call this server localhost or by its address\n")
        elif page is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there are /metrics and /healthz\n")
        else:
            self._send(*page(self.headers.get("Accept") or ""))

    def _refuse(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET only\n")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse

    def _send(self, code: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of every request: a scrape every few seconds for months fills a log."""


def _cut(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
