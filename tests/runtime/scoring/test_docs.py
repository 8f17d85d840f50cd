"""docs/score.md matches the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.support.score_toys import pictures
from twincar_edge.runtime.scoring.output import SCHEMA_VERSION, schema
from twincar_edge.runtime.scoring.score import ScoreConfig, score

PAGE = (REPOSITORY / "docs" / "score.md").read_text("utf-8")


def test_every_column_is_described() -> None:
    table = PAGE[PAGE.index("| column |") : PAGE.index("A video without")]
    described = {name for line in table.split("\n|")[1:] for name in re.findall(r"`(\w+)`", line.split("|")[0])}
    assert described == set(schema(3).names)
    assert f"`schema_version` is {SCHEMA_VERSION};" in PAGE


def test_the_queries_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("duckdb")
    pytest.importorskip("pandas")
    folder = pictures(tmp_path / "cars", 3)
    (folder / "bad.png").write_bytes(b"no image")
    score(ScoreConfig(str(folder), str(tmp_path / "names"), model, ep="cpu", workers=1))
    (tmp_path / "names" / ".0123.parquet").touch()  # as a killed worker may leave one
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, {})
    printed = capsys.readouterr().out
    assert "Castor" in printed
    assert "bad.png" in printed
