"""Tables fit the terminal: the least important columns are dropped first, and named; a file gets all columns."""

from __future__ import annotations

import pytest

from twincar_edge.cli.tables import print_table

HEADINGS = ("Name", "p50", "Nothing", "Path")
ROWS = [("alpha [2010]", "1.25", "–", "p" * 40), ("beta", "10.50", "–", "q" * 40)]


def printed(capsys: pytest.CaptureFixture[str], wrap: str = "") -> str:
    print_table(
        HEADINGS,
        ROWS,
        priority=("Name", "Nothing", "p50", "Path"),
        left=("Name", "Path"),
        elsewhere="--json",
        wrap=wrap,
    )
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("columns", "hidden"),
    [(120, None), (75, None), (64, "Nothing"), (40, "Nothing, Path"), (10, "Nothing, Path")],
)
def test_columns_that_do_not_fit_are_dropped_the_least_important_first(
    columns: int, hidden: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    *table, last = printed(capsys).splitlines()
    if hidden is None:
        assert last.strip() == ""
    else:
        assert last == f"columns not shown: {hidden}; use a wider terminal or --json"
    assert all(len(line) <= columns for line in table)
    headings = table[1].split() if columns > 30 else []
    assert all(heading in headings or heading in (hidden or "") for heading in HEADINGS if headings)


def test_a_wrapping_column_wraps_before_others_are_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = printed(capsys, wrap="Path")
    assert "not shown" not in out
    assert out.count("p") >= 40


def test_a_file_gets_every_column_and_unchanged_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    out = printed(capsys)
    assert "not shown" not in out
    assert "alpha [2010]" in out and "p" * 40 in out
    assert "\x1b" not in out
