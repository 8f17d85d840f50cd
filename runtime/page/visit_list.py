"""The list of visits: filters in its address, which can be shared, and pages of it, newest first."""

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
from twincar_edge.runtime.sinks.visit_pages import Place, choices, count, read_page

PAGE_SIZE = 48
COUNTED = 1000  # more visits are "more than"
LEVELS: tuple[Level, ...] = get_args(Level)
_LONGEST_TEXT = 200
_DAY = len("2026-11-28")


@dataclass(frozen=True)
class VisitQuery:
    """What the address of a list asks for. The fields are the parameters of the address, so that it can be shared."""

    name: str = ""
    make: str = ""
    model: str = ""
    camera: str = ""
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

    def address(self, **more: str) -> str:
        """Return the parameters as the end of an address, with `more` of them, or an empty text if there are none."""
        parameters = self.given() | more
        return f"?{urlencode(parameters)}" if parameters else ""

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
            model=self.model or None,
            name=self.name or None,
            levels=tuple(level for level in LEVELS if level == self.level),
        )


@dataclass(frozen=True)
class Shortcut:
    """A link that narrows the list down, or takes that back where `chosen`."""

    label: str
    address: str
    chosen: bool


def shortcuts(query: VisitQuery, today: date) -> list[Shortcut]:
    """Return links for what is looked for often."""
    days = {"Today": (0, 0), "Yesterday": (1, 1), "7 days": (6, 0)}
    changes = {
        label: {"since": str(today - timedelta(first)), "until": str(today - timedelta(last))}
        for label, (first, last) in days.items()
    }
    found = []
    for label, change in {**changes, "Unknown only": {"level": "unknown"}}.items():
        chosen = change.items() <= query.given().items()
        to = replace(query, **(dict.fromkeys(change, "") if chosen else change))
        found.append(Shortcut(label, to.address(), chosen))
    return found


def today() -> date:
    """Return the day in the box's time zone."""
    return datetime.now().astimezone().date()


def filter_values(content: Content, query: VisitQuery) -> dict[str, Any]:
    """Return what `filter.html` shows, beside the links: what the store has to choose from."""
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
        before, after = (_place(request.query_params.get(name, "")) for name in ("before", "after"))
        page = read_page(content.store, wanted, PAGE_SIZE, before=before, after=after)
        found = count(content.store, wanted, COUNTED + 1)
        return pages.render(
            request,
            "visits.html",
            visits=page.visits,
            found=found,
            counted=COUNTED,
            older=None if page.older is None else query.address(before=str(page.older)),
            newer=None if page.newer is None else query.address(after=str(page.newer)),
            has_parquet=importlib.util.find_spec("pyarrow") is not None,
            **filter_values(content, query),
        )

    return [Route("/visits", listed)]


def _place(text: str) -> Place | None:
    try:
        return Place.parse(text) if text else None
    except ValueError as error:
        raise HTTPException(400, f"{error}.") from error


def _moment(text: str, *, end: bool = False) -> datetime | None:
    """Read a day or a time of the box's time zone; a day as the end of a span is meant with its last second."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if end and len(text) == _DAY:
            moment += timedelta(days=1)
        return moment.astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise HTTPException(400, f"{text!r} is no time: write 2026-11-28 or 2026-11-28T14:30.") from error
