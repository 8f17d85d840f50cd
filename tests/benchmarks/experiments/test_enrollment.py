"""The enrollment experiment counts named, right and wrong answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.experiments import run_experiment
from tests.support.tiny_model import CLASSES, tiny_model
from twincar_edge.benchmarks.experiments.enrollment import DRAWS, NEW_CLASSES, EnrollmentReport, named_right, wrong
from twincar_edge.images import write_image
from twincar_edge.runtime.inference.answers import Hierarchy, Prediction


def answer(name: str, reject_below: float, *probabilities: float) -> Prediction:
    return Hierarchy((name, "Pollux Blue SUV 2021")).answer(np.array(probabilities, np.float32), reject_below)


def test_a_wrong_model_is_a_wrong_claim_but_a_right_make_alone_is_not() -> None:
    assert wrong(answer("Castor Red Sedan 2020", 0.5, 0.9, 0.1), "Castor Green")
    assert not wrong(answer("Castor", 0.5, 0.9, 0.1), "Castor Green")
    assert wrong(answer("Castor", 0.5, 0.9, 0.1), "Pollux Blue")
    assert not wrong(answer("Castor", 0.99, 0.5, 0.5), "Pollux Blue")


def test_a_right_make_and_model_without_the_class_in_full_is_not_a_right_name() -> None:
    two = Hierarchy(("Castor Red Sedan 2020", "Castor Red Coupe 2021", "Pollux Blue SUV 2021"))
    coarse = two.answer(np.array([0.5, 0.45, 0.05], np.float32), 0.6)
    assert coarse.name == "Castor Red" and not named_right(coarse, "Castor Red")
    assert named_right(answer("Castor Red", 0.5, 0.9, 0.1), "Castor Red")


def test_enrolled_colors_are_named_and_trained_ones_do_not_change(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "model.onnx", familiar=True, reject_below=0.6)
    rows = ["filename,make,model,kind"]
    for number in range(13):
        angle = (number + 0.5) / 13 * np.pi / 2
        color = 200 * np.array([0.5 * (number % 3), np.sin(angle), np.cos(angle)])
        for place in range(12):
            name = f"{number:02d}-{place:02d}.png"
            shade = np.clip(color + rng.integers(-1, 2, 3), 0, 255).astype(np.uint8)
            write_image(tmp_path / "strangers" / "images" / name, np.full((20, 30, 3), shade, np.uint8))
            rows.append(f"{name},Rigel,Color{number:02d},{'web' if number % 2 else 'car park'}")
    (tmp_path / "strangers" / "cars.csv").write_text("\n".join(rows) + "\n")
    for place, name in enumerate(CLASSES):
        write_image(tmp_path / "known" / name / "1.png", np.full((20, 30, 3), 255 * np.eye(3)[2 - place], np.uint8))
    output = tmp_path / "enrollment.json"
    assert run_experiment("enrollment", tmp_path / "strangers", tmp_path / "known", "--model", model, "-o", output) == 0
    report = EnrollmentReport.model_validate(json.loads(output.read_text()))
    assert (report.strangers, report.known, len(report.points)) == (156, 3, 16)
    assert {(one.top1_before, one.top1) for one in report.points} == {(1.0, 1.0)}
    best = next(one for one in report.points if one.shots == 10 and one.reach == 1.5)
    assert best.named > 0.5 and best.right is not None and best.right > 0.9
    assert set(best.kinds) == {"car park", "web"}
    assert sum(kind.pictures for kind in best.kinds.values()) == DRAWS * NEW_CLASSES * 2
    assert len(capsys.readouterr().out.splitlines()) == 4 + 16
