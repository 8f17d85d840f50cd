"""The page of charts: visits by make, level, hour and day, as bars in SVG."""

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
MAX_DAYS = 92
_LABELS = 12  # maximum of labels under upright bars


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: the name of the bar.
        count: the number of visits.
        size: the length of the bar, from 0 to 100.
        labeled: whether the label is shown.
    """

    label: str
    count: int
    size: float
    labeled: bool = True


@dataclass(frozen=True)
class Chart:
    """A title and bars, which are also shown as a table.

    Attributes:
        id: the id of the title, unique on the page.
        title: the title.
        what: the heading of the labels in the table, such as "Hour".
        bars: the bars, in order.
        upright: whether bars are vertical, as on a time line.
        kinds: the CSS class of each bar, or empty.
    """

    id: str
    title: str
    what: str
    bars: tuple[Bar, ...]
    upright: bool = False
    kinds: tuple[str, ...] = ()

    @property
    def max_count(self) -> int:
        """Return the count of the longest bar."""
        return max((bar.count for bar in self.bars), default=0)


def charts(
    makes: Mapping[str | None, int], levels: Mapping[str | None, int], times: Mapping[datetime, int]
) -> list[Chart]:
    """Return the charts of the page.

    Args:
        makes: the number of visits by make, largest first; None is the key of unknown makes.
        levels: the number of visits by level of the answer.
        times: the number of visits by start time.
    """
    known = [(make, count) for make, count in makes.items() if make is not None]
    rows = known[:TOP_MAKES]
    if others := sum(count for _, count in known[TOP_MAKES:]):
        rows.append((f"{len(known) - TOP_MAKES} other makes", others))
    if unknown := makes.get(None, 0):
        rows.append(("unknown", unknown))
    hours, days = Counter[int](), Counter[datetime]()
    for moment, count in times.items():
        local = moment.astimezone()
        hours[local.hour] += count
        days[local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)] += count
    return [
        Chart("by-make", "By make", "Make", _bars(rows)),
        Chart(
            "by-level",
            "By level of the answer",
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
    first = max(min(days), last - timedelta(MAX_DAYS - 1))
    all_days = (first + timedelta(number) for number in range((last - first).days + 1))
    title = "By day" if first == min(days) else f"By day, the last {MAX_DAYS}"
    return Chart("by-day", title, "Day", _bars((f"{one.day} {one:%b}", days[one]) for one in all_days), True)


def _bars(rows: Iterable[tuple[str, int]]) -> tuple[Bar, ...]:
    listed = list(rows)
    largest = max((count for _, count in listed), default=0) or 1
    step = -(-len(listed) // _LABELS)
    return tuple(
        Bar(label, count, round(100 * count / largest, 2), index % step == 0)
        for index, (label, count) in enumerate(listed)
    )


def routes(pages: Pages, content: Content) -> list[Route]:
    """Return the route of the page of charts."""

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
