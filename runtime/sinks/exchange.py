"""HTTP requests with one deadline for name resolution, connection, TLS, request and response together.

A socket timeout applies to each read, so a receiver that sends a byte now and then could block a request forever. Here
the connection is shut down at the deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

_Address = tuple[int, int, int, str, Any]  # as returned by `socket.getaddrinfo`


@dataclass(frozen=True)
class Response:
    """The status of a response, and its header Retry-After."""

    status: int
    retry_after: str | None


class Exchange:
    """Posts to one host, one request at a time, each on a new connection."""

    def __init__(
        self,
        host: str,
        port: int,
        timeout_s: float,
        tls: ssl.SSLContext | None = None,
        *,
        resolve: Callable[..., list[Any]] = socket.getaddrinfo,
    ) -> None:
        """Prepare.

        Args:
            host: name or address.
            port: TCP port.
            timeout_s: for a whole exchange.
            tls: verifies the receiver's certificate; None for no TLS.
            resolve: resolves a name like `socket.getaddrinfo`; may take longer than the timeout.
        """
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._tls = tls
        self._resolve = resolve
        self._lookup: Future[list[_Address]] | None = None

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Send a request and return the response.

        Raises:
            TimeoutError: no response before the deadline.
            OSError, http.client.HTTPException: the connection failed, or the response is not HTTP.
        """
        deadline_s = time.monotonic() + self._timeout_s
        connected = self._connect(deadline_s)
        # Keep a duplicate for the shutdown: TLS detaches the original.
        with connected.dup() as handle:
            late = threading.Event()
            timer = threading.Timer(_remaining_s(deadline_s), _shut_down, (handle, late))
            timer.daemon = True
            timer.start()
            try:
                response = self._exchange(connected, path, body, headers)
                if late.is_set():  # a shut-down connection looks like the end of the headers
                    raise TimeoutError
                return response
            except (OSError, http.client.HTTPException) as error:
                if late.is_set():
                    raise TimeoutError from error
                raise
            finally:
                timer.cancel()
                timer.join()

    def _exchange(self, connected: socket.socket, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls)
            try:
                connected = self._tls.wrap_socket(connected, server_hostname=self._host)
            except BaseException:
                connected.close()
                raise
        connection.sock = connected
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            return Response(response.status, response.headers.get("Retry-After"))
        finally:
            connection.close()

    def _connect(self, deadline_s: float) -> socket.socket:
        failure: OSError = TimeoutError()
        addresses = self._addresses(deadline_s)
        for tried, (family, kind, protocol, _name, address) in enumerate(addresses):
            connecting = socket.socket(family, kind, protocol)
            try:
                # An address that drops packets, as IPv6 often does, must leave time for the others.
                connecting.settimeout(_remaining_s(deadline_s) / (len(addresses) - tried))
                connecting.connect(address)
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connecting
            except OSError as error:
                connecting.close()
                failure = error
        raise failure

    def _addresses(self, deadline_s: float) -> list[_Address]:
        """Resolve the host in a thread, because a lookup cannot be interrupted; at most one runs at a time."""
        lookup = self._lookup
        if lookup is None or lookup.done():
            lookup = self._lookup = Future()
            threading.Thread(target=self._look_up, args=(lookup,), name="name lookup", daemon=True).start()
        return lookup.result(_remaining_s(deadline_s))

    def _look_up(self, lookup: Future[list[_Address]]) -> None:
        try:
            lookup.set_result(self._resolve(self._host, self._port, type=socket.SOCK_STREAM))
        except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
            lookup.set_exception(error)


def _remaining_s(deadline_s: float) -> float:
    return max(0.001, deadline_s - time.monotonic())


def _shut_down(handle: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):  # already closed by the receiver
        handle.shutdown(socket.SHUT_RDWR)
