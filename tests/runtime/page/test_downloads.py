"""Downloads: they follow the list's filter, and spreadsheets and data frames can read them."""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.support.event_toys import MOMENT, eventually, visit
from tests.support.pages import ServedPage, served
from twincar_edge.runtime.sinks.csv import COLUMNS, cells
from twincar_edge.runtime.sinks.parquet import write_parquet

EVENTS = [visit(id=f"{n}", started_at=MOMENT + timedelta(seconds=n)) for n in range(700)]
ODD = visit(id="odd", camera="=cmd()", level="unknown", name="unknown", make=None, model=None, year=None, top5=())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    with served(tmp_path_factory.mktemp("page"), [*EVENTS, ODD]) as page:
        yield page


def test_csv_has_all_filtered_visits_newest_first(page: ServedPage) -> None:
    answer = page.get("/visits.csv?camera=gate")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="visits.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == [str(n) for n in range(699, -1, -1)]


def test_names_cannot_become_formulas(page: ServedPage) -> None:
    (row,) = csv.DictReader(io.StringIO(page.get("/visits.csv?level=unknown").text))
    assert row["camera"] == "'=cmd()"


def test_parquet_has_the_same_columns_with_types(page: ServedPage) -> None:
    answer = page.get("/visits.parquet")
    table = parquet.read_table(pyarrow.BufferReader(answer.body))
    assert tuple(table.column_names) == COLUMNS
    rows = {row["id"]: row for row in table.to_pylist()}
    assert len(rows) == 701
    for event in (EVENTS[3], ODD):
        expected = dict(zip(COLUMNS, cells(event), strict=True))
        assert rows[event.id] == expected


@pytest.mark.parametrize("range", ["bytes=0-9", "bytes=abc", "bytes=999999999-"])
def test_a_parquet_download_leaves_no_temporary_file(
    page: ServedPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    page.get("/visits.parquet", Range=range)
    eventually(lambda: list(tmp_path.iterdir()) == [], "deleted", 5.0)


def test_every_column_has_the_type_of_its_field(tmp_path: Path) -> None:
    write_parquet(tmp_path / "one.parquet", [[EVENTS[0]]])
    for column, value in parquet.read_table(tmp_path / "one.parquet").to_pylist()[0].items():
        assert type(value) is type(dict(zip(COLUMNS, cells(EVENTS[0]), strict=True))[column]), column


def test_parquet_without_pyarrow_names_the_missing_package(page: ServedPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = page.get("/visits.parquet")
    assert answer.status == 503
    assert "pyarrow" in answer.text


def test_an_invalid_filter_is_an_error_before_the_file_starts(page: ServedPage) -> None:
    assert page.get("/visits.csv?since=x").status == page.get("/visits.parquet?level=x").status == 400
