"""The list of visits: filters in the URL, and paging."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from html import unescape

import pytest

from tests.support.event_toys import MOMENT, visit
from tests.support.pages import ServedPage, served
from twincar_edge.runtime.page.visit_list import PAGE_SIZE, VisitQuery, shortcuts


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    """A page of two cameras: 60 visits of the gate, one an hour, and an unknown car in the yard a day later."""
    gate = [visit(id=f"gate-{n}", started_at=MOMENT + timedelta(hours=n)) for n in range(60)]
    yard = visit(
        id="yard", camera="yard", level="unknown", name="unknown", make=None, model=None,
        started_at=MOMENT + timedelta(hours=84),
    )  # fmt: skip
    with served(tmp_path_factory.mktemp("page"), [*gate, yard]) as page:
        yield page


def shown(text: str) -> list[str]:
    """The ids of the visits on a page, in its order."""
    return re.findall(r'<article class="card".*?href="/visits/([^"]+)"', text, re.DOTALL)


def link(text: str, label: str) -> str:
    found = re.search(rf'href="([^"]*)"[^>]*>{label}</a>', text)
    assert found is not None, label
    return unescape(found[1])


def test_links_to_older_and_newer_pages_keep_the_filter(page: ServedPage) -> None:
    first = page.get("/visits?camera=gate").text
    assert shown(first) == [f"gate-{n}" for n in range(59, 59 - PAGE_SIZE, -1)]
    assert "60 visits" in first
    assert "Newer visits" not in first
    second = page.get(link(first, "Older visits")).text
    assert shown(second) == [f"gate-{n}" for n in range(59 - PAGE_SIZE, -1, -1)]
    assert "Older visits" not in second
    assert shown(page.get(link(second, "Newer visits")).text) == shown(first)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("level=unknown", ["yard"]),
        ("camera=yard&make=Castor", []),
        ("name=sedan+castor&until=2025-03-01T13:30Z", ["gate-1", "gate-0"]),
        ("make=CASTOR&since=2025-03-03T22:30Z", ["gate-59"]),
        ("model=red&since=2025-03-04", []),
    ],
)
def test_filters_are_query_parameters(page: ServedPage, query: str, found: list[str]) -> None:
    text = page.get(f"/visits?{query}").text
    assert shown(text) == found
    assert ("No visit matches these filters" in text) == (not found)


def test_choices_come_from_the_store_and_the_requested_ones_stay_selected(page: ServedPage) -> None:
    text = page.get("/visits?make=castor&camera=gone").text
    assert "<option selected>Castor</option>" in text
    assert "<option>gate</option><option>yard</option><option selected>gone</option>" in text
    assert "<details open>" in text
    assert "<details>" in page.get("/visits?name=castor").text


@pytest.mark.parametrize("query", ["level=best", "since=yesterday", "until=2025-13-01", "before=1", "after=x.y"])
def test_invalid_parameters_are_refused(page: ServedPage, query: str) -> None:
    assert page.get(f"/visits?{query}").status == 400


def test_a_visits_address_needs_its_full_id(page: ServedPage) -> None:
    assert "Castor Red Sedan 2020" in page.get("/visits/gate-1").text
    assert page.get("/visits/gate-").status == 404


def test_shortcuts_set_and_remove_filters() -> None:
    query = VisitQuery(camera="gate", level="unknown")
    today, yesterday, week, unknown = shortcuts(query, date(2025, 3, 2))
    assert today.address == "?camera=gate&level=unknown&since=2025-03-02&until=2025-03-02"
    assert yesterday.address == "?camera=gate&level=unknown&since=2025-03-01&until=2025-03-01"
    assert week.address == "?camera=gate&level=unknown&since=2025-02-24&until=2025-03-02"
    assert (unknown.address, unknown.chosen, today.chosen) == ("?camera=gate", True, False)
