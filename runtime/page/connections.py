"""The page's connections: accepts them, limits their number, and disconnects clients that do nothing.

uvicorn has neither a limit nor a timeout for them, and asyncio hides a connection until its TLS handshake is complete.
So clients that send nothing could take all file descriptors of the process, which may be the camera loop's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Sequence
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from twincar_edge.runtime.listening import connection_to_close

logger = logging.getLogger(__name__)

MAX_CLIENTS = 64
IDLE_CHECK_S = 10.0  # interval of the checks for idle clients, and the timeout of the TLS handshake
WRITE_TIMEOUT_S = 30.0  # for a client that reads nothing of its response
_ACCEPT_RETRY_S = 1.0
_LOG_INTERVAL_S = 600.0


class LimitedServer(uvicorn.Server):
    """uvicorn's server, with a limit on connections that counts from the moment they are accepted.

    When the limit is reached, a new connection closes the oldest one of the address with the most connections,
    preferably one whose client keeps the server waiting. So no address can lock out the others.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        """Prepare; see `uvicorn.Server`."""
        super().__init__(config)
        self._clients: dict[asyncio.Task[None], Protocol] = {}  # oldest first
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets=[])  # without sockets, because this class accepts their connections
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in sockets or []]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, disconnect clients that keep the server waiting, and await the last responses."""
        await _cancel(self._accepting)
        # By now every connection's task has begun: canceled before, it would not close its socket.
        await _cancel([task for task, protocol in self._clients.items() if protocol.waits_for_client])
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        logged_s = -math.inf
        while True:
            await _readable(listener)
            try:
                connection, address = listener.accept()
                if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * WRITE_TIMEOUT_S))
            except BlockingIOError:  # the client has gone
                continue
            except OSError as error:  # such as too many open files
                if loop.time() - logged_s >= _LOG_INTERVAL_S:
                    logged_s = loop.time()
                    logger.error("the page cannot accept connections: %s", error.strerror or error)
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            protocol = Protocol(self.config, self.server_state, self.lifespan.state, loop)
            protocol.address = address[0]
            task = asyncio.create_task(self._run_connection(connection, protocol))
            if len(self._clients) >= MAX_CLIENTS:
                self._disconnect_one()
            self._clients[task] = protocol
            task.add_done_callback(lambda task: self._clients.pop(task, None))

    async def _run_connection(self, connection: socket.socket, protocol: Protocol) -> None:
        """Serve a client until it is disconnected; canceling the task disconnects it."""
        tls = self.config.ssl
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, connection, ssl=tls, ssl_handshake_timeout=IDLE_CHECK_S if tls else None
            )
        except OSError:  # the TLS handshake failed or took too long
            return
        try:
            await protocol.closed.wait()
        finally:
            transport.abort()

    def _disconnect_one(self) -> None:
        others = sorted(self._clients.items(), key=lambda one: not one[1].waits_for_client)  # stable: oldest first
        task, _ = others[connection_to_close([protocol.address for _, protocol in others])]
        del self._clients[task]
        task.cancel()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _readable(listener: socket.socket) -> None:
    """Wait for a connection to accept.

    The event loop's own `sock_accept` also accepts it. If the server stops at that moment, it loses the connection,
    which stays open.
    """
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listener, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(listener)


class Protocol(H11Protocol):
    """One connection. Disconnects a client that completes no request for a while.

    Attributes:
        address: the IP address of the other end.
        closed: set when the connection is closed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of uvicorn's protocol."""
        super().__init__(*args, **kwargs)
        self.address = ""
        self.closed = asyncio.Event()
        self._last_cycle: Any = None  # the completed request at the last check; None before the first request

    @property
    def waits_for_client(self) -> bool:
        """Return whether the client acts next: it has to send a request or the rest of one, or to read the response."""
        cycle = cast(Any, self.cycle)
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to check the client."""
        super().connection_made(transport)
        self._idle_check = self.loop.call_later(IDLE_CHECK_S, self._disconnect_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the checks."""
        self._idle_check.cancel()
        self.closed.set()
        super().connection_lost(exc)

    def _disconnect_if_idle(self) -> None:
        """Disconnect the client if it has completed no request since the last check."""
        cycle = cast(Any, self.cycle)
        if cycle is None or cycle.response_complete:
            if cycle is self._last_cycle:
                self.transport.close()
                return
            self._last_cycle = cycle
        self._idle_check = self.loop.call_later(IDLE_CHECK_S, self._disconnect_if_idle)
