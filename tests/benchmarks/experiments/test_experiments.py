"""The command line of the experiments imports only the experiment that runs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.support.clips import RED_BGR, beginning_of, drive_by, film, write_video
from tests.support.experiments import run_experiment
from tests.support.tiny_model import tiny_model
from twincar_edge.benchmarks import experiments
from twincar_edge.benchmarks.experiments.page_overhead import PageOverhead
from twincar_edge.benchmarks.experiments.watch_overhead import WatchOverhead
from twincar_edge.bundled import demo_clip


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_experiment_in_the_table_is_a_command_with_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(f"{experiments.__name__}.{name}").command
    assert isinstance(command, click.Command) and command.name == name
    assert run_experiment(name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"Usage: {experiments.PROGRAM} {name} ")


def test_help_lists_every_experiment_and_imports_none() -> None:
    program = (
        "import sys\nfrom twincar_edge.benchmarks.experiments import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('loaded:', [name for name in sys.modules if name.startswith('twincar_edge.benchmarks.experiments.')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")
    for name, line in experiments.EXPERIMENTS.items():
        assert f"\n  {name} " in done.stdout and line.split()[0] in done.stdout


def test_an_unknown_experiment_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_experiment("visit") == 2
    assert "no command 'visit': did you mean 'visits'" in capsys.readouterr().err


def test_the_loop_is_compared_with_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = tiny_model(tmp_path / "tiny.onnx"), tmp_path / "found.json"
    clip = beginning_of(demo_clip(), 14, tmp_path / "gate.mp4")
    assert run_experiment("watch_overhead", clip, "--model", model, "--rounds", 1, "-o", output) == 0
    found = WatchOverhead.model_validate_json(output.read_text("utf-8"))
    assert capsys.readouterr().out == found.summary() + "\n"
    assert found.crops >= found.batches > 0
    parts = (found.decode, found.infer, found.watch)
    assert all(len(part.fps) == len(part.cpu) == 1 and part.fps[0] > 0 for part in parts)


def test_the_loop_is_measured_while_clients_watch_its_page(tmp_path: Path) -> None:
    model, output = tiny_model(tmp_path / "tiny.onnx", golden=True), tmp_path / "found.json"
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 100))
    code = run_experiment("page_overhead", clip, "--model", model, "--rounds", 1, "-o", output)
    found = PageOverhead.model_validate_json(output.read_text("utf-8"))
    assert code == (found.shares("watched")[0] < 0.9)
    assert all(rate[0] > 0 for rate in (found.closed, found.open, found.watched))
    assert found.sent_mb > 0.01  # the clients received pictures
