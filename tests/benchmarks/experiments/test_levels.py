"""Coverage and accuracy of each level are counted from the answers of a camera box."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.experiments import run_experiment
from tests.support.tiny_model import CLASSES, tiny_model
from twincar_edge.benchmarks.experiments.levels import LevelsReport, level_points, levels_table
from twincar_edge.labels import ClassMapping, parse_name
from twincar_edge.metrics import softmax
from twincar_edge.runtime.inference.answers import Hierarchy

NAMES = (
    "Castor Vela Sedan 2019", "Castor Vela Sedan 2020", "Castor Vega Coupe 2020", "Pollux Vela Sedan 2019",
    "Pollux Argo SUV 2021",
)  # fmt: skip


def test_points_count_the_answers_as_a_box_gives_them() -> None:
    rng = np.random.default_rng(3)
    hierarchy = Hierarchy(NAMES)
    labels = rng.integers(0, len(NAMES), 300)
    logits = rng.normal(0, 1.5, (300, len(NAMES))).astype(np.float32)
    logits[np.arange(300), labels] += 2
    probabilities = softmax(logits)
    low, high = level_points(probabilities, labels, hierarchy, (0.8, 0.6, 0.8))
    assert (low.threshold, high.threshold) == (0.6, 0.8)
    for point in (low, high):
        answers = [hierarchy.answer(row, point.threshold) for row in probabilities]
        truths = [parse_name(NAMES[label]) for label in labels]
        full_names = [(one, label) for one, label in zip(answers, labels, strict=True) if one.label is not None]
        named = [(one, truth) for one, truth in zip(answers, truths, strict=True) if one.vehicle is not None]
        assert point.levels["year"].coverage == pytest.approx(len(full_names) / 300)
        assert point.levels["year"].right == pytest.approx(np.mean([one.label == label for one, label in full_names]))
        assert point.levels["model"].coverage == pytest.approx(
            np.mean([one.level in ("year", "model") for one in answers])
        )
        assert point.levels["make"].coverage == pytest.approx(len(named) / 300)
        assert point.levels["make"].right == pytest.approx(
            np.mean([one.vehicle is not None and one.vehicle.make == truth.make for one, truth in named])
        )
        models = hierarchy.model
        right = [
            one.vehicle == models.names[models.of_class[label]]
            if one.label is None
            else models.of_class[one.label] == models.of_class[label]
            for one, label in zip(answers, labels, strict=True)
            if one.level in ("year", "model")
        ]
        assert any(one.level == "model" for one in answers)
        assert point.levels["model"].right == pytest.approx(np.mean(right))


def test_accuracy_is_none_without_named_answers() -> None:
    (point,) = level_points(np.full((4, 5), 0.2, np.float32), np.zeros(4, np.int64), Hierarchy(NAMES), (0.99,))
    assert all((level.coverage, level.right) == (0, None) for level in point.levels.values())
    assert levels_table((point,), 0.99).splitlines()[-1] == (
        "| **0.99** | **0.0%** | **none** | **0.0%** | **none** | **0.0%** | **none** |"
    )


def test_the_command_also_counts_at_the_models_own_threshold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    (folder / "images").mkdir(parents=True)
    # Red and green with right labels, red and green with wrong labels, and gray, which has equal probabilities.
    for number, color in enumerate(((0, 0, 200), (0, 200, 0), (0, 0, 200), (0, 200, 0), (90, 90, 90))):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), np.full((32, 32, 3), color, np.uint8))
    (folder / "labels.csv").write_text("filename,label\n0.png,0\n1.png,1\n2.png,1\n3.png,2\n4.png,0\n")
    (folder / "class_mapping.json").write_text(ClassMapping(CLASSES).to_json())
    model = tiny_model(tmp_path / "tiny.onnx", reject_below=0.65)
    output = tmp_path / "levels.json"
    assert run_experiment("levels", str(folder), "--model", model, "--threads", "1", "-o", output) == 0
    found = LevelsReport.model_validate_json(output.read_text())
    assert capsys.readouterr().out == found.to_markdown()
    assert (found.data.images, found.threshold) == (5, 0.65)
    assert found.top1 == pytest.approx(3 / 5)  # gray is right because ties go to the lower index
    (own,) = (point for point in found.points if point.threshold == 0.65)
    assert [(level, figures.coverage) for level, figures in own.levels.items()] == [
        ("year", pytest.approx(0.8)), ("model", pytest.approx(0.8)), ("make", pytest.approx(1.0)),
    ]  # fmt: skip
    assert own.levels["year"].right == pytest.approx(2 / 4)
    assert own.levels["make"].right == pytest.approx(4 / 5)  # red instead of green is the right make, Castor

    assert run_experiment("levels", str(tmp_path / "absent"), "--model", model) == 2
    assert capsys.readouterr().err.startswith("error: ")
