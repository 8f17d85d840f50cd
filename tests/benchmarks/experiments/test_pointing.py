"""The pointing game measures heat maps on twin cars."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.experiments import run_experiment
from twincar_edge.benchmarks.faithfulness.report import FaithfulnessReport


def test_occlusion_points_at_the_part_more_often_than_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment("pointing", "--images", "5", "-o", str(tmp_path / "pointing.json"))
    report = FaithfulnessReport.model_validate_json((tmp_path / "pointing.json").read_text())
    assert report.images == 5 and 4 <= report.named_right <= 5
    rows = {row.method: row for row in report.rows}
    assert report.part is not None and 0 < report.part < 0.2
    contrast = rows["occlusion, contrast"].near_the_part
    assert contrast is not None and contrast >= 0.5 > 5 * report.part
    for row in report.rows:
        assert row.near_the_part is not None and row.on_the_part is not None
        assert row.near_the_part >= row.on_the_part
    assert "| occlusion, contrast |" in capsys.readouterr().out
