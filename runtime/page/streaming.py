"""Answers that go on: live pictures and news of visits. They wait in the server's event loop, and cost no thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, suppress

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

MOST_STREAMS = 32  # half of the server's clients: the rest is for pages and pictures


class Listener:
    """One stream that waits for what other threads have to tell."""

    def __init__(self, streams: Streams) -> None:
        """Take the streams that it is one of; on the server's event loop."""
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Say that there is something new; from any thread."""
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    async def turns(self, longest_s: float | None = None) -> AsyncIterator[bool]:
        """Yield True at once and whenever the stream is woken, False after `longest_s`; ends when the server stops."""
        woken = True
        while not self._streams.closed:
            yield woken
            with suppress(TimeoutError):
                async with asyncio.timeout(longest_s):
                    await self._woken.wait()
            woken = self._woken.is_set()
            self._woken.clear()


Parts = Callable[[Listener], AsyncIterator[bytes]]


class Streams:
    """All streams of a server: a limited number, which end when the server stops.

    Attributes:
        closed: the server stops.
    """

    def __init__(self, most: int = MOST_STREAMS) -> None:
        """Allow at most so many at once."""
        self.closed = False
        self._most = most
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
            parts: makes what is sent, part by part.
            listening: has the listener woken while its block runs.
            media_type: of the whole answer.
        """
        return _Stream(self, parts, listening, media_type)

    def open(self) -> Listener | None:
        """Return a new listener, or None where there are too many."""
        if self.closed or len(self._open) >= self._most:
            return None
        listener = Listener(self)
        self._open.add(listener)
        return listener

    def end(self, listener: Listener) -> None:
        """Make room for another one."""
        self._open.discard(listener)


class _Stream(StreamingResponse):
    """A stream takes its place when it is sent, and leaves it however it ends."""

    def __init__(
        self,
        streams: Streams,
        parts: Parts,
        listening: Callable[[Listener], AbstractContextManager[object]],
        media_type: str,
    ) -> None:
        super().__init__((), media_type=media_type, headers={"X-Accel-Buffering": "no"})  # nginx would collect parts
        self._streams = streams
        self._parts = parts
        self._listening = listening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        listener = self._streams.open()
        if listener is None:
            refusal = PlainTextResponse("Too many live views are open: close one.\n", 503, {"Retry-After": "10"})
            await refusal(scope, receive, send)
            return
        try:
            with self._listening(listener):
                self.body_iterator = self._parts(listener)
                await super().__call__(scope, receive, send)
        finally:
            self._streams.end(listener)
