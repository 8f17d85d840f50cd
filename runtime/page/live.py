"""The live part of the page: the cameras' pictures and health, and new visits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twincar_edge.runtime.inference.answers import UNKNOWN
from twincar_edge.runtime.monitoring.health import check_health
from twincar_edge.runtime.monitoring.status import CameraStatus, LoopStatus
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.feed import VisitFeed
from twincar_edge.runtime.page.pictures import LivePictures
from twincar_edge.runtime.page.rendering import Pages
from twincar_edge.runtime.page.streaming import Listener, Streams
from twincar_edge.runtime.sinks.store import StoredVisit

STILL_S = 2.0  # timeout for a new still picture, because a camera may be slow
HEARTBEAT_S = 15.0  # proxies close idle connections
_RATE_S = 2.0  # shortest time over which frames per second are measured
_BOUNDARY = b"--frame\r\n"


@dataclass(frozen=True)
class CameraCard:
    """A camera's data on the page.

    Attributes:
        status: its status in the loop.
        fps: its frames per second; None until they were measured.
        visits: the number of its visits that have ended.
        unknown: the share of these without a name; None without visits.
        picture: whether it has a picture, or may still get one.
    """

    status: CameraStatus
    fps: float | None
    visits: int
    unknown: float | None
    picture: bool


class CameraCards:
    """Makes the cards of the cameras, and measures frames per second between calls."""

    def __init__(self, content: Content, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Prepare for the loop of `content`; `monotonic` is a clock in seconds."""
        self._running = content.running
        self._monotonic = monotonic
        self._counted: dict[str, tuple[float, int]] = {}
        self._fps: dict[str, float] = {}

    def values(self) -> dict[str, Any]:
        """Return the values for the template `cameras.html`."""
        if self._running is None:
            return {"cameras": None, "problems": ()}
        status = self._running.status()
        health = check_health(status, self._running.limits)
        cameras = [self._card(status, camera, self._running.pictures) for camera in status.cameras]
        return {"cameras": cameras, "problems": health.problems}

    def _card(self, status: LoopStatus, camera: CameraStatus, pictures: LivePictures) -> CameraCard:
        levels = {level: count for (name, level), count in status.visits.items() if name == camera.name}
        visits = sum(levels.values())
        return CameraCard(
            camera,
            self._rate(camera),
            visits,
            levels.get(UNKNOWN, 0) / visits if visits else None,
            camera.state not in ("ended", "failed") or pictures.newest(camera.name) is not None,
        )

    def _rate(self, camera: CameraStatus) -> float | None:
        now_s = self._monotonic()
        then_s, frames = self._counted.setdefault(camera.name, (now_s, camera.frames))
        if now_s - then_s >= _RATE_S:
            self._fps[camera.name] = (camera.frames - frames) / (now_s - then_s)
            self._counted[camera.name] = (now_s, camera.frames)
        return self._fps.get(camera.name)


def routes(pages: Pages, content: Content, cards: CameraCards, streams: Streams, feed: VisitFeed) -> list[Route]:
    """Return the routes of live views. Without a loop there are no pictures."""

    def cameras(request: Request) -> Response:
        return pages.render(request, "cameras.html", **cards.values())

    async def visits(request: Request) -> Response:
        parts = partial(_visits, pages, request, feed)
        return streams.response(parts, feed.listening, "text/event-stream")

    running = content.running
    always = [Route("/cameras", cameras), Route("/visits.stream", visits)]
    if running is None:
        return always
    pictures = running.pictures

    def requested_camera(request: Request) -> str:
        camera: str = request.path_params["camera"]
        if camera not in pictures.cameras:
            raise HTTPException(404, f"Unknown camera {camera!r}.")
        return camera

    async def video(request: Request) -> Response:
        camera = requested_camera(request)
        return streams.response(
            partial(_video, pictures, camera),
            partial(pictures.watching, camera),
            "multipart/x-mixed-replace; boundary=frame",
        )

    async def still(request: Request) -> Response:
        camera = requested_camera(request)
        picture = await _still(pictures, camera, Listener(streams))
        if picture is None:
            raise HTTPException(503, f"Camera {camera} has no picture at the moment.", {"Retry-After": "2"})
        return Response(picture, media_type="image/jpeg")

    return [*always, Route("/live/{camera}.mjpeg", video), Route("/live/{camera}.jpg", still)]


async def _still(pictures: LivePictures, camera: str, listener: Listener) -> bytes | None:
    """Wait for a new picture, and return it; after a timeout, return the newest one."""
    before = pictures.newest(camera)
    with pictures.watching(camera, listener):
        async for woken in listener.turns(STILL_S):
            if not woken or pictures.newest(camera) is not before:
                break
    return pictures.newest(camera)


async def _video(pictures: LivePictures, camera: str, listener: Listener) -> AsyncIterator[bytes]:
    """Yield pictures as parts of a multipart body; each ends with a boundary, on which browsers show the picture."""
    yield _BOUNDARY
    sent = None
    async for _ in listener.turns():
        picture = pictures.newest(camera)
        if picture is not None and picture is not sent:
            sent = picture
            head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
            yield head + picture + b"\r\n" + _BOUNDARY


async def _visits(pages: Pages, request: Request, feed: VisitFeed, listener: Listener) -> AsyncIterator[bytes]:
    """Yield the cards of the newest visits, then of each visit that changes.

    A browser that reconnects gets all of the newest visits again, so it misses none.
    """
    yield b"retry: 2000\n\n"
    sent: dict[str, StoredVisit] = {}
    async for woken in listener.turns(HEARTBEAT_S):
        if not woken:
            yield b": heartbeat\n\n"
        newest = feed.newest()
        if newest is not None:
            for name, data in _changes(sent, newest, partial(pages.fragment, request, "visit_card.html")):
                yield _event(name, data)
            sent = {visit.event.id: visit for visit in newest}


def _changes(
    sent: dict[str, StoredVisit], newest: tuple[StoredVisit, ...], card: Callable[..., str]
) -> Iterator[tuple[str, str]]:
    """Yield events for a browser: cards of new or changed visits, and ids of removed ones."""
    ids = {visit.event.id for visit in newest}
    for visit in newest:
        if sent.get(visit.event.id) != visit:
            yield "visit", card(visit=visit)
    for id, visit in sent.items():
        # A visit that is older than all others was not removed, but displaced by newer ones.
        if id not in ids and (not newest or visit.event.started_at > newest[0].event.started_at):
            yield "gone", id


def _event(name: str, data: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in data.splitlines() if line.strip())
    return f"event: {name}\n{lines}\n".encode()
