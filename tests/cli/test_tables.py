"""Tables fit the terminal: the least worthy columns go first, and a line names them; a file gets all."""

from __future__ import annotations

import pytest

from twincar_edge.cli.tables import print_table

HEADS = ("Name", "p50", "Nothing", "Path")
ROWS = [("alpha [2010]", "1.25", "–", "p" * 40), ("beta", "10.50", "–", "q" * 40)]


def printed(capsys: pytest.CaptureFixture[str], wrap: str = "") -> str:
    print_table(
        HEADS, ROWS, priority=("Name", "Nothing", "p50", "Path"), left=("Name", "Path"), elsewhere="--json", wrap=wrap
    )
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [(120, None), (75, None), (64, "Nothing"), (40, "Nothing, Path"), (10, "Nothing, Path")],
)
def test_columns_without_room_are_left_out_the_least_worthy_first(
    columns: int, left_out: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    *table, last = printed(capsys).splitlines()
    if left_out is None:
        assert last.strip() == ""
    else:
        assert last == f"columns not shown: {left_out}; use a wider terminal or --json"
    assert all(len(line) <= columns for line in table)
    heads = table[1].split() if columns > 30 else []
    assert all(head in heads or head in (left_out or "") for head in HEADS if heads)


def test_a_column_that_may_wrap_does_so_before_others_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = printed(capsys, wrap="Path")
    assert "not shown" not in out
    assert out.count("p") >= 40


def test_a_file_gets_every_column_and_text_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    out = printed(capsys)
    assert "not shown" not in out
    assert "alpha [2010]" in out and "p" * 40 in out
    assert "\x1b" not in out
