"""The charts: groups, time zones, and lengths of bars."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.event_toys import MOMENT, visit
from tests.support.pages import served
from twincar_edge.runtime.page.charts import MAX_DAYS, TOP_MAKES, Chart, charts


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The box is in Berlin."""
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.delenv("TZ") if before is None else monkeypatch.setenv("TZ", before)
    time.tzset()


def counts(chart: Chart) -> dict[str, int]:
    return {bar.label: bar.count for bar in chart.bars}


def test_rare_makes_are_grouped_and_unknown_ones_are_separate() -> None:
    makes: dict[str | None, int] = {f"Make {n}": 100 - n for n in range(TOP_MAKES + 3)}
    makes[None] = 7
    by_make = charts(makes, {}, {})[0]
    assert len(by_make.bars) == TOP_MAKES + 2
    assert by_make.bars[-2].label == "3 other makes"
    assert by_make.bars[-2].count == sum(100 - n for n in range(TOP_MAKES, TOP_MAKES + 3))
    assert (by_make.bars[-1].label, by_make.bars[-1].count) == ("unknown", 7)
    assert max(bar.size for bar in by_make.bars) == 100


@pytest.mark.usefixtures("berlin")
def test_hours_and_days_are_in_the_boxs_time_zone() -> None:
    times = {
        datetime(2025, 3, 29, 23, 15, tzinfo=UTC): 2,  # a quarter past midnight
        datetime(2025, 3, 30, 22, 45, tzinfo=UTC): 3,  # summer time has begun: the next day already
    }
    by_hour, by_day = charts({}, {}, times)[2:]
    assert {label: count for label, count in counts(by_hour).items() if count} == {"0": 5}
    assert len(by_hour.bars) == 24
    assert counts(by_day) == {"30 Mar": 2, "31 Mar": 3}


def test_days_without_visits_have_a_bar_and_very_old_days_are_omitted() -> None:
    now = datetime(2025, 6, 1, 12, tzinfo=UTC)
    by_day = charts({}, {}, {now - timedelta(400): 9, now - timedelta(2): 1, now: 4})[3]
    assert len(by_day.bars) == MAX_DAYS
    assert str(MAX_DAYS) in by_day.title
    assert [bar.count for bar in by_day.bars[-3:]] == [1, 0, 4]


def test_the_charts_count_the_filtered_visits(tmp_path: Path) -> None:
    events = [visit(id=f"{n}", started_at=MOMENT + timedelta(hours=n)) for n in range(3)]
    unknown = visit(id="u", camera="yard", level="unknown", name="unknown", make=None, model=None)
    with served(tmp_path, [*events, unknown]) as page:
        text = page.get("/charts").text
        assert "4 visits" in text
        rows = re.findall(r'<th scope="row">([^<]*)</th><td class="number">(\d+)</td>', text)
        assert ("Castor", "3") in rows
        assert ("make, model, year", "3") in rows
        assert rows.count(("unknown", "1")) == 2  # as a make, and as an answer
        assert sum(int(count) for _, count in rows) == 4 * 4
        assert "1 visit." in page.get("/charts?camera=yard").text
        assert 'href="/visits?camera=yard"' in page.get("/charts?camera=yard").text
        assert "No visit matches these filters" in page.get("/charts?camera=gone").text
