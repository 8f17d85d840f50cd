"""What `/metrics` and `/healthz` answer, for the monitoring server and for the web page."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from prometheus_client.exposition import choose_encoder

from twincar_edge.runtime.monitoring.health import HealthLimits, check_health
from twincar_edge.runtime.monitoring.metrics import make_registry
from twincar_edge.runtime.monitoring.status import LoopStatus

Answer = tuple[HTTPStatus, str, bytes]  # status, content type and body


class Exposition:
    """Answers with the state of a loop."""

    def __init__(self, status: Callable[[], LoopStatus], limits: HealthLimits) -> None:
        """Take what gives a snapshot, and the limits of health."""
        self._status = status
        self._limits = limits
        self._registry = make_registry(status)

    def metrics(self, accept: str) -> Answer:
        """Return the metrics in the format that the header `Accept` asks for, or else as plain text."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it compares the version that a client sends, whatever that is
            encode, content_type = choose_encoder("")
        return HTTPStatus.OK, content_type, encode(self._registry)

    def health(self, _accept: str) -> Answer:
        """Return the health as JSON, with status 503 where something is wrong."""
        found = check_health(self._status(), self._limits)
        code = HTTPStatus.OK if found.healthy else HTTPStatus.SERVICE_UNAVAILABLE
        return code, "application/json", found.model_dump_json().encode() + b"\n"
