"""The list of visits, newest first, in pages. Its filters are in the URL, so links can be shared."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, get_args
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twincar_edge.runtime.events import Level
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.rendering import Pages
from twincar_edge.runtime.sinks.store import EventFilter
from twincar_edge.runtime.sinks.visit_pages import PageCursor, choices, count, read_page

PAGE_SIZE = 48
MAX_COUNT = 1000  # larger counts show as "more than"
LEVELS: tuple[Level, ...] = get_args(Level)
_MAX_LENGTH = 200
_DATE_LENGTH = len("2026-11-28")


@dataclass(frozen=True)
class VisitQuery:
    """The filters of a list. The fields are the query parameters of its URL."""

    name: str = ""
    make: str = ""
    model: str = ""
    camera: str = ""
    level: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, parameters: QueryParams) -> VisitQuery:
        """Read the query parameters; unknown ones are ignored, and long ones are truncated."""
        return cls(**{name: parameters.get(name, "").strip()[:_MAX_LENGTH] for name in cls.__dataclass_fields__})

    def given(self) -> dict[str, str]:
        """Return the parameters that are set."""
        return {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name))}

    def address(self, **more: str) -> str:
        """Return the query string of a URL, with `more` parameters; empty if there are none."""
        parameters = self.given() | more
        return f"?{urlencode(parameters)}" if parameters else ""

    def filter(self) -> EventFilter:
        """Return the filter for the store.

        Raises:
            HTTPException: a time or level is invalid.
        """
        if self.level and self.level not in LEVELS:
            raise HTTPException(400, f"Unknown level {self.level!r}: use {', '.join(LEVELS)}.")
        return EventFilter(
            since=_parse_time(self.since),
            until=_parse_time(self.until, end=True),
            camera=self.camera or None,
            make=self.make or None,
            model=self.model or None,
            name=self.name or None,
            levels=tuple(level for level in LEVELS if level == self.level),
        )


@dataclass(frozen=True)
class Shortcut:
    """A link that sets a filter, or removes it if `chosen`."""

    label: str
    address: str
    chosen: bool


def shortcuts(query: VisitQuery, today: date) -> list[Shortcut]:
    """Return links for frequent filters."""
    days = {"Today": (0, 0), "Yesterday": (1, 1), "7 days": (6, 0)}
    changes = {
        label: {"since": str(today - timedelta(first)), "until": str(today - timedelta(last))}
        for label, (first, last) in days.items()
    }
    links = []
    for label, change in {**changes, "Unknown only": {"level": "unknown"}}.items():
        chosen = change.items() <= query.given().items()
        target = replace(query, **(dict.fromkeys(change, "") if chosen else change))
        links.append(Shortcut(label, target.address(), chosen))
    return links


def today() -> date:
    """Return today's date in the box's time zone."""
    return datetime.now().astimezone().date()


def filter_values(content: Content, query: VisitQuery) -> dict[str, Any]:
    """Return the values for the template `filter.html`, including the choices in the store."""
    return {
        "query": query,
        "levels": LEVELS,
        "shortcuts": shortcuts(query, today()),
        "cameras": choices(content.store, "camera"),
        "makes": choices(content.store, "make"),
        "models": choices(content.store, "model"),
    }


def routes(pages: Pages, content: Content) -> list[Route]:
    """Return the route of the list."""

    def listed(request: Request) -> Response:
        query = VisitQuery.of(request.query_params)
        wanted = query.filter()
        before, after = (_parse_cursor(request.query_params.get(name, "")) for name in ("before", "after"))
        page = read_page(content.store, wanted, PAGE_SIZE, before=before, after=after)
        total = count(content.store, wanted, MAX_COUNT + 1)
        return pages.render(
            request,
            "visits.html",
            visits=page.visits,
            total=total,
            max_count=MAX_COUNT,
            older=None if page.older is None else query.address(before=str(page.older)),
            newer=None if page.newer is None else query.address(after=str(page.newer)),
            has_parquet=importlib.util.find_spec("pyarrow") is not None,
            **filter_values(content, query),
        )

    return [Route("/visits", listed)]


def _parse_cursor(text: str) -> PageCursor | None:
    try:
        return PageCursor.parse(text) if text else None
    except ValueError as error:
        raise HTTPException(400, f"{error}.") from error


def _parse_time(text: str, *, end: bool = False) -> datetime | None:
    """Parse a date or a time in the box's time zone. A date that ends a period includes the whole day."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if end and len(text) == _DATE_LENGTH:
            moment += timedelta(days=1)
        return moment.astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise HTTPException(400, f"Invalid time {text!r}: use 2026-11-28 or 2026-11-28T14:30.") from error
