"""The pointing game counts what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.experiments import run_experiment
from twincar_edge.benchmarks.experiments.pointing import PointingReport


def test_occlusion_points_at_the_part_more_often_than_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment("pointing", "--images", "8", "-o", str(tmp_path / "pointing.json"))
    report = PointingReport.model_validate_json((tmp_path / "pointing.json").read_text())
    assert report.pictures == 8 and 6 <= report.named_right <= 8
    rows = {row.method: row for row in report.rows}
    assert 0 < report.part < 0.2
    assert rows["occlusion against the twin"].near_the_part >= 0.5 > 5 * report.part
    for row in report.rows:
        assert row.near_the_part >= row.on_the_part
    assert "| occlusion against the twin |" in capsys.readouterr().out
