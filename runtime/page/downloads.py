"""Downloads of the filtered visits, as CSV (streamed) and as Parquet (with pyarrow)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.visit_list import VisitQuery
from twincar_edge.runtime.sinks.csv import csv_header, csv_row
from twincar_edge.runtime.sinks.parquet import write_parquet
from twincar_edge.runtime.sinks.visit_pages import read_all


def routes(content: Content) -> list[Route]:
    """Return the routes of the downloads; they take the same filter parameters as the list."""

    def csv(request: Request) -> Response:
        wanted = VisitQuery.of(request.query_params).filter()

        def lines() -> Iterator[str]:
            yield csv_header()
            for visits in read_all(content.store, wanted):
                yield "".join(csv_row(visit.event) for visit in visits)

        return StreamingResponse(lines(), media_type="text/csv", headers=_attached("visits.csv"))

    def parquet(request: Request) -> Response:
        wanted = VisitQuery.of(request.query_params).filter()
        number, name = tempfile.mkstemp(suffix=".parquet")
        os.close(number)
        path = Path(name)
        try:
            write_parquet(path, ([visit.event for visit in visits] for visits in read_all(content.store, wanted)))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return _TemporaryFile(path, media_type="application/vnd.apache.parquet", headers=_attached("visits.parquet"))

    return [Route("/visits.csv", csv), Route("/visits.parquet", parquet)]


class _TemporaryFile(FileResponse):
    """Sends a file, then deletes it, whether or not it was sent. Starlette omits background tasks after some errors."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)


def _attached(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
