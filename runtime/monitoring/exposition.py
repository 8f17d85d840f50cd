"""The responses of `/metrics` and `/healthz`, for the monitoring server and the web page."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from prometheus_client.exposition import choose_encoder

from twincar_edge.runtime.monitoring.health import HealthLimits, check_health
from twincar_edge.runtime.monitoring.metrics import make_registry
from twincar_edge.runtime.monitoring.status import LoopStatus

Reply = tuple[HTTPStatus, str, bytes]  # status, content type and body


class Exposition:
    """Renders the status of a loop."""

    def __init__(self, status: Callable[[], LoopStatus], limits: HealthLimits) -> None:
        """Render snapshots from `status`; judge health by `limits`."""
        self._status = status
        self._limits = limits
        self._registry = make_registry(status)

    def metrics(self, accept: str) -> Reply:
        """Return the metrics in the format that the header `Accept` requests, by default as plain text."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the client sent an invalid version
            encode, content_type = choose_encoder("")
        return HTTPStatus.OK, content_type, encode(self._registry)

    def health(self, _accept: str) -> Reply:
        """Return the health as JSON, with status 503 if unhealthy."""
        health = check_health(self._status(), self._limits)
        code = HTTPStatus.OK if health.healthy else HTTPStatus.SERVICE_UNAVAILABLE
        return code, "application/json", health.model_dump_json().encode() + b"\n"
