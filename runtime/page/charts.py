"""The page of charts: visits by make, by level, by hour and by day, as bars that the server draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.rendering import LEVEL_NAMES, Pages
from twincar_edge.runtime.page.visit_list import LEVELS, VisitQuery, filter_values
from twincar_edge.runtime.sinks.visit_pages import tally, tally_times

TOP_MAKES = 12
MOST_DAYS = 92
_LABELS = 12  # at most so many under upright bars


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: what it counts.
        count: visits.
        size: its length, from 0 to 100.
        labeled: whether there is room for its label.
    """

    label: str
    count: int
    size: float
    labeled: bool = True


@dataclass(frozen=True)
class Chart:
    """Bars under a title, and as a table for those who cannot see them.

    Attributes:
        id: of the title, unique on the page.
        title: what the bars show.
        what: what a label is, such as "Hour".
        bars: in order.
        upright: bars of a time line stand, others lie.
        kinds: how each bar is colored, or nothing.
    """

    id: str
    title: str
    what: str
    bars: tuple[Bar, ...]
    upright: bool = False
    kinds: tuple[str, ...] = ()

    @property
    def most(self) -> int:
        """Return the count of the longest bar."""
        return max((bar.count for bar in self.bars), default=0)


def charts(
    makes: Mapping[str | None, int], levels: Mapping[str | None, int], times: Mapping[datetime, int]
) -> list[Chart]:
    """Return the charts of the page.

    Args:
        makes: visits by make, most first; None where the make is unknown.
        levels: visits by how far the answer goes.
        times: visits by when they began.
    """
    known = [(make, count) for make, count in makes.items() if make is not None]
    rows = known[:TOP_MAKES]
    if others := sum(count for _, count in known[TOP_MAKES:]):
        rows.append((f"{len(known) - TOP_MAKES} other makes", others))
    if unknown := makes.get(None, 0):
        rows.append(("unknown", unknown))
    hours, days = Counter[int](), Counter[datetime]()
    for moment, count in times.items():
        there = moment.astimezone()
        hours[there.hour] += count
        days[there.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)] += count
    return [
        Chart("by-make", "By make", "Make", _bars(rows)),
        Chart(
            "by-level",
            "How far the answers go",
            "Answer",
            _bars((LEVEL_NAMES[level], levels.get(level, 0)) for level in LEVELS),
            kinds=LEVELS,
        ),
        Chart("by-hour", "By hour of the day", "Hour", _bars((f"{hour}", hours[hour]) for hour in range(24)), True),
        _by_day(days),
    ]


def _by_day(days: Counter[datetime]) -> Chart:
    if not days:
        return Chart("by-day", "By day", "Day", (), True)
    last = max(days)
    first = max(min(days), last - timedelta(MOST_DAYS - 1))
    all_days = (first + timedelta(number) for number in range((last - first).days + 1))
    title = "By day" if first == min(days) else f"By day, the last {MOST_DAYS}"
    return Chart("by-day", title, "Day", _bars((f"{one.day} {one:%b}", days[one]) for one in all_days), True)


def _bars(rows: Iterable[tuple[str, int]]) -> tuple[Bar, ...]:
    listed = list(rows)
    most = max((count for _, count in listed), default=0) or 1
    every = -(-len(listed) // _LABELS)
    return tuple(
        Bar(label, count, round(100 * count / most, 2), place % every == 0)
        for place, (label, count) in enumerate(listed)
    )


def routes(pages: Pages, content: Content) -> list[Route]:
    """Return the route of the charts."""

    def shown(request: Request) -> Response:
        query = VisitQuery.of(request.query_params)
        wanted = query.filter()
        levels = tally(content.store, wanted, "level")
        return pages.render(
            request,
            "charts.html",
            total=sum(levels.values()),
            charts=charts(tally(content.store, wanted, "make"), levels, tally_times(content.store, wanted)),
            **filter_values(content, query),
        )

    return [Route("/charts", shown)]
