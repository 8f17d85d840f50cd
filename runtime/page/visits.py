"""The visits: a list that filters narrow down, one visit, and its picture and clip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from twincar_edge.errors import InputError
from twincar_edge.files import is_file
from twincar_edge.runtime.events import Level
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.live import CameraCards
from twincar_edge.runtime.page.rendering import Pages
from twincar_edge.runtime.page.said import judged
from twincar_edge.runtime.sinks.store import EventFilter, StoredVisit, read_visit, read_visits
from twincar_edge.runtime.teaching.judging import Judging

PAGE_SIZE = 48
_LONGEST_TEXT = 200
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class VisitQuery:
    """What the address of a list asks for. The fields are the parameters of the address, so that it can be shared."""

    name: str = ""
    camera: str = ""
    make: str = ""
    level: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, parameters: QueryParams) -> VisitQuery:
        """Read the parameters; unknown ones are ignored, and long ones are cut."""
        return cls(**{name: parameters.get(name, "").strip()[:_LONGEST_TEXT] for name in cls.__dataclass_fields__})

    def given(self) -> dict[str, str]:
        """Return the parameters that narrow the list down."""
        return {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name))}

    def filter(self) -> EventFilter:
        """Return what to look for in the store.

        Raises:
            HTTPException: a time or level cannot be read.
        """
        if self.level and self.level not in LEVELS:
            raise HTTPException(400, f"There is no level {self.level!r}; there are {', '.join(LEVELS)}.")
        return EventFilter(
            since=_moment(self.since),
            until=_moment(self.until, end=True),
            camera=self.camera or None,
            make=self.make or None,
            name=self.name or None,
            levels=(self.level,) if self.level else (),
        )


def _moment(text: str, *, end: bool = False) -> datetime | None:
    """Read a day or a time of the box's time zone; a day as the end of a span is meant with its last second."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if end and len(text) == len("2026-11-28"):
            moment += timedelta(days=1)
        return moment.astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise HTTPException(400, f"{text!r} is no time: write 2026-11-28 or 2026-11-28T14:30.") from error


def routes(pages: Pages, content: Content, cards: CameraCards, judging: Judging) -> list[Route]:
    """Return the routes of the visits; `judging` has what people said of them."""

    def index(request: Request) -> Response:
        return pages.render(
            request, "index.html", visits=_newest(content, EventFilter(limit=12))[::-1], **cards.values()
        )

    def listed(request: Request) -> Response:
        query = VisitQuery.of(request.query_params)
        wanted = query.filter()
        before = _moment(request.query_params.get("before", ""))
        if before is not None:
            wanted = replace(wanted, until=min(before, wanted.until) if wanted.until else before)
        found = _newest(content, replace(wanted, limit=PAGE_SIZE + 1))[::-1]
        more = found[PAGE_SIZE - 1].event.started_at.isoformat() if len(found) > PAGE_SIZE else None
        return pages.render(
            request,
            "visits.html",
            visits=found[:PAGE_SIZE],
            query=query,
            levels=LEVELS,
            older=None if more is None else urlencode({**query.given(), "before": more}),
        )

    def shown(request: Request) -> Response:
        visit = find_visit(content, request.path_params["id"])
        return pages.render(
            request,
            "visit.html",
            visit=visit,
            event=visit.event,
            picture=content.saved(visit.crop) is not None,
            clip=content.saved(visit.clip) is not None,
            judged=judged(judging, visit.event),
        )

    def picture(request: Request) -> Response:
        return _file(content.saved(find_visit(content, request.path_params["id"]).crop))

    def clip(request: Request) -> Response:
        return _file(content.saved(find_visit(content, request.path_params["id"]).clip))

    return [
        Route("/", index),
        Route("/visits", listed),
        Route("/visits/{id}", shown),
        Route("/visits/{id}/picture", picture),
        Route("/visits/{id}/clip", clip),
    ]


def _newest(content: Content, wanted: EventFilter) -> list[StoredVisit]:
    return list(read_visits(content.store, wanted)) if is_file(content.store) else []


def find_visit(content: Content, id: str) -> StoredVisit:
    """Return a visit.

    Raises:
        HTTPException: there is none with this id.
    """
    try:
        return read_visit(content.store, id)
    except InputError as error:
        raise HTTPException(404, str(error)) from error


def _file(path: Path | None) -> Response:
    if path is None:
        raise HTTPException(404, "This file is not kept, or no longer: see how long pictures and clips are.")
    return FileResponse(path, headers={"Cache-Control": "private, max-age=86400"})
