"""The page's application: its routes, middleware and error pages."""

from __future__ import annotations

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from twincar_edge.errors import TwincarError
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.listening import allowed_hosts
from twincar_edge.runtime.page import (
    answers,
    charts,
    downloads,
    judgements,
    live,
    login,
    monitoring,
    teach,
    visit_list,
    visits,
)
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.feed import VisitFeed
from twincar_edge.runtime.page.guard import Guard
from twincar_edge.runtime.page.headers import SafeHeaders
from twincar_edge.runtime.page.login import Sessions
from twincar_edge.runtime.page.rendering import HERE, Pages
from twincar_edge.runtime.page.streaming import Streams
from twincar_edge.runtime.page.tokens import Tokens, session_secret
from twincar_edge.runtime.teaching.judging import JudgementRecorder


def make_app(
    content: Content, settings: PageSettings, *, bound: str, tokens: Tokens | None, streams: Streams, feed: VisitFeed
) -> ASGIApp:
    """Return the application.

    Args:
        content: the data that the page shows.
        settings: the host names and the path of the page.
        bound: the IP address on which the server listens.
        tokens: the tokens of users; None if the page needs no token.
        streams: the streaming responses.
        feed: the newest visits, as they change.

    Raises:
        InputError: the session key cannot be read from or written to the state folder.
    """
    recorder = JudgementRecorder(content.state, content.classifier)
    pages = Pages(live=content.running is not None, logged_in=tokens is not None)
    cards = live.CameraCards(content)
    guard = Middleware(Guard, hosts=allowed_hosts(bound, settings.hosts), tokens=tokens)
    session = Middleware(
        Sessions,
        secret_key=session_secret(content.state) if tokens is not None else "",
        path=settings.root_path or "/",
    )

    def error_page(request: Request, error: Exception) -> Response:
        status, text = 500, "Internal error: see the log of the box."
        headers = None
        if isinstance(error, HTTPException):
            status, text, headers = error.status_code, error.detail, error.headers
        elif isinstance(error, TwincarError):
            status, text = 503, str(error)
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(text + "\n", status, headers)
        title = f"{status} {HTTPStatus(status).phrase}"
        page = pages.render(request, "problem.html", status=status, title=title, problem=text)
        page.headers.update(headers or {})
        return page

    app = Starlette(
        routes=[
            *login.routes(pages, tokens),
            *visits.routes(pages, content, cards, recorder),
            *visit_list.routes(pages, content),
            *charts.routes(pages, content),
            *downloads.routes(content),
            *live.routes(pages, content, cards, streams, feed),
            *answers.routes(pages, content),
            *judgements.routes(content, recorder),
            *teach.routes(pages, content, recorder),
            *monitoring.routes(content),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        middleware=[session, guard] if tokens is not None else [guard],
        exception_handlers={
            HTTPException: error_page,
            TwincarError: error_page,
            ClientDisconnect: lambda *_: Response(status_code=400),  # nobody receives it
            Exception: error_page,
        },
    )
    return SafeHeaders(app)
