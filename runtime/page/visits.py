"""The first page, and a visit's page with its picture and clip."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.judgement_view import judgement_values
from twincar_edge.runtime.page.live import CameraCards
from twincar_edge.runtime.page.rendering import Pages
from twincar_edge.runtime.sinks.store import EventFilter, StoredVisit
from twincar_edge.runtime.sinks.visit_pages import read_one, read_page
from twincar_edge.runtime.teaching.judging import JudgementRecorder

NEWEST = 12  # on the first page


def routes(pages: Pages, content: Content, cards: CameraCards, recorder: JudgementRecorder) -> list[Route]:
    """Return the routes of visits; `recorder` has the users' judgments."""

    def index(request: Request) -> Response:
        newest = read_page(content.store, EventFilter(), NEWEST).visits
        return pages.render(request, "index.html", visits=newest, **cards.values())

    def shown(request: Request) -> Response:
        visit = find_visit(content, request.path_params["id"])
        return pages.render(
            request,
            "visit.html",
            visit=visit,
            event=visit.event,
            picture=content.saved(visit.crop) is not None,
            clip=content.saved(visit.clip) is not None,
            judgement=judgement_values(recorder, visit.event),
        )

    def picture(request: Request) -> Response:
        return _file(content.saved(find_visit(content, request.path_params["id"]).crop), "image/jpeg")

    def clip(request: Request) -> Response:
        return _file(content.saved(find_visit(content, request.path_params["id"]).clip), "video/mp4")

    return [
        Route("/", index),
        Route("/visits/{id}", shown),
        Route("/visits/{id}/picture", picture),
        Route("/visits/{id}/clip", clip),
    ]


def find_visit(content: Content, id: str) -> StoredVisit:
    """Return the visit with an id.

    Raises:
        HTTPException: there is no such visit.
    """
    visit = read_one(content.store, id)
    if visit is None:
        raise HTTPException(404, "Unknown visit: it may have been deleted.")
    return visit


def _file(path: Path | None, kind: str) -> Response:
    if path is None:
        raise HTTPException(404, "This visit has no such file. Old pictures and clips are deleted.")
    return FileResponse(path, media_type=kind, headers={"Cache-Control": "private, max-age=86400"})
