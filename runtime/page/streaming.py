"""Streaming responses: live pictures and visits. They wait in the server's event loop, so none needs a thread."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, suppress

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

MAX_STREAMS = 32  # half of the server's clients; the rest is for pages and pictures
ADMISSION_S = 2.0  # longest time between two checks of a stream's token


class Listener:
    """A stream that waits for data from other threads."""

    def __init__(self, streams: Streams, is_admitted: Callable[[], bool] = lambda: True) -> None:
        """Prepare, on the server's event loop.

        Args:
            streams: the streams of the server.
            is_admitted: returns whether the client's token is still valid.
        """
        self._streams = streams
        self._is_admitted = is_admitted
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Signal new data; from any thread."""
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    async def turns(self, timeout_s: float = math.inf) -> AsyncIterator[bool]:
        """Yield True first and after each `wake`, and False after `timeout_s` without one.

        The iteration ends when the server stops, and within `ADMISSION_S` after the client's token was removed.
        """
        woken, due_s = True, 0.0
        while not self._streams.closed and self._is_admitted():
            if woken or self._loop.time() >= due_s:
                yield woken
                due_s = self._loop.time() + timeout_s
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(due_s, self._loop.time() + ADMISSION_S)):
                    await self._woken.wait()
            woken = self._woken.is_set()
            self._woken.clear()


Parts = Callable[[Listener], AsyncIterator[bytes]]


class Streams:
    """All streams of a server: their number is limited, and they end when the server stops.

    Attributes:
        closed: the server is stopping.
    """

    def __init__(self, limit: int = MAX_STREAMS) -> None:
        """Allow up to `limit` streams at once."""
        self.closed = False
        self._limit = limit
        self._open: set[Listener] = set()

    def close(self) -> None:
        """End all streams, and refuse new ones; from any thread."""
        self.closed = True
        for listener in tuple(self._open):
            listener.wake()

    def response(
        self, parts: Parts, listening: Callable[[Listener], AbstractContextManager[object]], media_type: str
    ) -> Response:
        """Return a streaming response.

        Args:
            parts: generates the body.
            listening: returns a context in which the listener is woken on new data.
            media_type: of the response.
        """
        return _Stream(self, parts, listening, media_type)

    def open(self, is_admitted: Callable[[], bool]) -> Listener | None:
        """Return a new listener; None when the limit is reached. See `Listener` for the argument."""
        if self.closed or len(self._open) >= self._limit:
            return None
        listener = Listener(self, is_admitted)
        self._open.add(listener)
        return listener

    def release(self, listener: Listener) -> None:
        """Return the place of a listener that has ended."""
        self._open.discard(listener)


class _Stream(StreamingResponse):
    """A stream that takes its place when it is sent, and releases it however it ends."""

    def __init__(
        self,
        streams: Streams,
        parts: Parts,
        listening: Callable[[Listener], AbstractContextManager[object]],
        media_type: str,
    ) -> None:
        super().__init__((), media_type=media_type, headers={"X-Accel-Buffering": "no"})  # nginx would buffer
        self._streams = streams
        self._parts = parts
        self._listening = listening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        listener = self._streams.open(scope["state"]["is_admitted"])
        if listener is None:
            refusal = PlainTextResponse("Too many live views are open: close one.\n", 503, {"Retry-After": "10"})
            await refusal(scope, receive, send)
            return
        try:
            with self._listening(listener):
                self.body_iterator = self._parts(listener)
                await super().__call__(scope, receive, send)
        finally:
            self._streams.release(listener)
