"""The throughput of training is measured in turns, and the report names the machine and the settings."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

from tests.support.experiments import run_experiment
from tests.support.training_toys import toy_dataset, toy_recipe
from twincar_edge.benchmarks.experiments.training_throughput import measure
from twincar_edge.training.machine import Machine

KEYS = ("architecture=test_resnet", "weights=none", "freeze_stages=0", "size=32", "train_size=32", "first_train_size=0")


def test_three_subjects_take_turns_on_the_given_clock(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "data")
    seconds = count()  # each turn takes one second: 4 steps of 16 images
    found = measure(
        toy_recipe(ema_decay=0.9),
        dataset,
        Machine("cpu", 1),
        rounds=3,
        steps=4,
        clock=lambda: float(next(seconds)),
    )
    assert found.images_per_s == {subject: (64.0,) * 3 for subject in ("real", "fixed", "timm")}
    assert (found.real_over_fixed.median, found.step_over_timm.largest) == (1, 1)
    assert (found.device, found.precision, found.batch_size, found.train_size) == ("cpu", "fp32", 16, 32)
    assert "real images / fixed batch: 1.000" in found.to_markdown()


def test_the_command_prints_and_writes_its_report_and_reports_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_dataset(tmp_path / "data")
    options = [argument for key in KEYS for argument in ("--set", key)]
    command = [str(tmp_path / "data"), "--device", "cpu", "--threads", "1", "--rounds", "1", "--steps", "1", *options]
    assert run_experiment("training_throughput", *command, "-o", str(tmp_path / "found.json")) == 0
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["schema_version"] == 1 and document["machine"]["usable_cores"] >= 1
    assert set(document["images_per_s"]) == {"real", "fixed", "timm"}
    assert "| timm |" in capsys.readouterr().out
    assert run_experiment("training_throughput", *command, "--set", "epoch=1") == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err
