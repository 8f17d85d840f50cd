"""A small HTTP server for monitoring: `/metrics` for Prometheus, `/healthz` for health checks.

By default it listens on loopback. It accepts only GET, and no client can block it: each connection has its own thread
and a deadline. When all threads are in use, the oldest connection of the address with the most connections is closed.
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
from twincar_edge.runtime.monitoring.exposition import Exposition, Reply
from twincar_edge.runtime.monitoring.health import HealthLimits
from twincar_edge.runtime.monitoring.status import LoopStatus

logger = logging.getLogger(__name__)

MAX_CLIENTS = 16
_MAX_THREADS = 2 * MAX_CLIENTS  # threads of disconnected clients end a moment later
CLIENT_TIMEOUT_S = 5.0
_POLL_S = 0.25
_INDEX = (
    "<!doctype html><title>twincar-edge</title><h1>twincar-edge</h1>"
    '<p><a href="healthz">healthz</a>: health check. <a href="metrics">metrics</a>: for Prometheus.'
)


class Monitoring:
    """Serves a loop's status while the context is active.

    Attributes:
        url: the server's URL, with a trailing slash.
    """

    def __init__(
        self,
        address: str,
        status: Callable[[], LoopStatus],
        limits: HealthLimits | None = None,
        *,
        client_timeout_s: float = CLIENT_TIMEOUT_S,
    ) -> None:
        """Prepare; entering the context starts the server.

        Args:
            address: `HOST:PORT`.
            status: returns a snapshot; called in the server's threads.
            limits: limits of the health check; the default ones if not given.
            client_timeout_s: deadline of a connection.

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
        """Start the server.

        Raises:
            InputError: the port is in use or not permitted, or the host is not an address of this machine.
        """
        exposition = Exposition(self._status, self._limits)

        def index(_accept: str) -> Reply:
            return HTTPStatus.OK, "text/html; charset=utf-8", _INDEX.encode()

        pages = {"/": index, "/metrics": exposition.metrics, "/healthz": exposition.health}
        self._server = _Server(listen(self._address, "metrics"), pages, self._client_timeout_s)
        bound = self._server.server_name
        self.url = f"http://{as_host(bound)}:{self._server.server_port}/"
        if not is_loopback(bound):
            logger.warning("metrics at %s are readable by everyone who can reach this machine", self.url)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="monitoring", daemon=True
        )
        self._thread.start()
        logger.info("metrics at %smetrics, health at %shealthz", self.url, self.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop listening, disconnect all clients, and wait for the thread."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


Page = Callable[[str], Reply]


class _Server(ThreadingHTTPServer):
    """A threaded server with a limited number of connections, each with a deadline.

    Attributes:
        pages: handlers by path.
        hosts: allowed host names, or None for any. On loopback, a foreign name indicates DNS rebinding by another site;
            elsewhere, Prometheus may use any name that the network has for this machine.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, pages: dict[str, Page], client_timeout_s: float) -> None:
        self.pages = pages
        self._client_timeout_s = client_timeout_s
        self._clients: dict[socket.socket, _Client] = {}  # oldest first
        self._reported: set[str] = set()  # types of errors that were logged
        self._lock = threading.Lock()
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()  # the base class always creates one
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.hosts = allowed_hosts(self.server_name) if is_loopback(self.server_name) else None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a client; if too many are connected, disconnect one."""
        client = _Client(client_address[0], time.monotonic() + self._client_timeout_s)
        with self._lock:
            full = len(self._clients) >= _MAX_THREADS
            if not full:
                self._clients[request] = client
                connected = [(other, entry) for other, entry in self._clients.items() if not entry.disconnected]
                if len(connected) > MAX_CLIENTS:
                    other, entry = connected[connection_to_close([entry.address for _, entry in connected[:-1]])]
                    entry.disconnected = True
                    _disconnect(other)
        if full:
            self.shutdown_request(request)
        else:
            request.settimeout(self._client_timeout_s)
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection and remove the client."""
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Disconnect clients after their deadline: each received byte resets the socket's own timeout."""
        now = time.monotonic()
        with self._lock:
            late = [client for client, entry in self._clients.items() if entry.deadline_s < now]
        for client in late:
            _disconnect(client)

    def server_close(self) -> None:
        """Close the port and disconnect all clients."""
        super().server_close()
        with self._lock:
            remaining = list(self._clients)
        for client in remaining:
            _disconnect(client)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log each type of error once. Clients that disconnect or time out are not errors."""
        error = sys.exception()
        kind = type(error).__name__
        if not isinstance(error, OSError) and kind not in self._reported:
            self._reported.add(kind)
            logger.error("monitoring request failed; further errors of this type are not logged", exc_info=error)


@dataclass
class _Client:
    """A connection: its address, its deadline, and whether the server has disconnected it."""

    address: str
    deadline_s: float
    disconnected: bool = False


class _Handler(BaseHTTPRequestHandler):
    """Serves one page per connection."""

    server_version = f"twincar-edge/{__version__}"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        """Send the requested page."""
        page = self.server.pages.get(self.path.partition("?")[0])
        hosts = self.server.hosts
        if hosts is not None and not is_allowed_host(self.headers.get("Host") or "", hosts):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"unknown Host: use localhost or an IP address\n")
        elif page is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not found: use /metrics or /healthz\n")
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
        """Log nothing: frequent scrapes over months would fill the log."""


def _disconnect(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
