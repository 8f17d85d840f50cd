"""A server that stops disconnects each client, also one that connects at that moment."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvicorn

from twincar_edge.runtime.page.connections import LimitedServer, Protocol


@pytest.mark.parametrize("steps", range(6))
def test_a_client_that_connects_as_the_server_stops_is_disconnected(steps: int) -> None:
    """`steps` of the event loop after it connects; otherwise the client would wait for an answer that never comes."""

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("no client sends a request")

    async def connect_and_stop() -> bytes:
        config = uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None)
        config.load()
        server = LimitedServer(config)
        server.lifespan = config.lifespan_class(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await server.startup([listener])
            await asyncio.sleep(0.05)
            with socket.create_connection(listener.getsockname(), timeout=10) as client:
                for _ in range(steps):
                    await asyncio.sleep(0)
                await server.shutdown([listener])
                try:
                    return await asyncio.to_thread(client.recv, 1)
                except ConnectionResetError:
                    return b""

    assert asyncio.run(connect_and_stop()) == b""
