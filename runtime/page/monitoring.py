"""`/metrics` and `/healthz` on the page, as on the monitoring server (`--monitor`)."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twincar_edge.runtime.monitoring.exposition import Exposition, Reply
from twincar_edge.runtime.page.content import Content


def routes(content: Content) -> list[Route]:
    """Return the routes; none without a loop in this process."""
    running = content.running
    if running is None:
        return []
    exposition = Exposition(running.status, running.limits)

    def route(path: str, answer: Callable[[str], Reply]) -> Route:
        def respond(request: Request) -> Response:
            status, content_type, body = answer(request.headers.get("accept", ""))
            return Response(body, status, {"Content-Type": content_type})

        return Route(path, respond)

    return [route("/metrics", exposition.metrics), route("/healthz", exposition.health)]
