"""`/metrics` and `/healthz` on the page: what the monitoring server answers where there is no page."""

from __future__ import annotations

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twincar_edge.runtime.monitoring.health import check_health
from twincar_edge.runtime.monitoring.metrics import make_registry
from twincar_edge.runtime.page.content import Content


def routes(content: Content) -> list[Route]:
    """Return the routes; without a loop in this process there is nothing to monitor."""
    running = content.running
    if running is None:
        return []
    registry = make_registry(running.status)

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    def health(_request: Request) -> Response:
        found = check_health(running.status(), running.limits)
        return Response(found.model_dump_json() + "\n", 200 if found.healthy else 503, media_type="application/json")

    return [Route("/metrics", metrics), Route("/healthz", health)]
