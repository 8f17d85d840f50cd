"""A killed training can be resumed, with the same result as an uninterrupted one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import REPOSITORY
from tests.support.training_toys import toy_recipe
from twincar_edge.cli import main
from twincar_edge.datasets import Dataset, OpenOptions
from twincar_edge.errors import ModelError
from twincar_edge.training.checkpoint import read_checkpoint, read_state_dict
from twincar_edge.training.fit import TrainingResult, fit
from twincar_edge.training.machine import Machine
from twincar_edge.training.model import CarClassifier, load_model
from twincar_edge.training.run_folder import RunFolder

ONE_THREAD = Machine(device="cpu", threads=1)
RECIPE = toy_recipe(ema_decay=0.9, first_train_size=16, schedule="cosine", class_balance="weighted")

# Kills itself while torch writes the Nth file. Each epoch writes best.pt, if it is the best so far, and then last.pt.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.training.test_resume import RECIPE, ONE_THREAD
from twincar_edge.datasets import OpenOptions
from twincar_edge.training.fit import fit

save, calls, last = torch.save, [], int(sys.argv[3])

def dies_while_writing(document, target):
    save(document, target)
    calls.append(target)
    if len(calls) == last:
        Path(target).write_bytes(Path(target).read_bytes()[:5000])
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = dies_while_writing
data, run = map(Path, sys.argv[1:3])
options = OpenOptions(data)
fit(RECIPE, options.open(), run, data_options=options, machine=ONE_THREAD)
"""


@pytest.fixture(scope="module")
def uninterrupted(toys: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    run = tmp_path_factory.mktemp("run") / "uninterrupted"
    return fit(RECIPE, dataset, run, data_options=OpenOptions(toys), machine=ONE_THREAD)


def killed_at(write: int, toys: Path, run: Path) -> RunFolder:
    command = [sys.executable, "-c", KILLED, str(toys), str(run), str(write)]
    process = subprocess.run(command, cwd=REPOSITORY)
    assert process.returncode == -signal.SIGKILL
    return RunFolder(run)


def without_times(run: Path) -> list[str]:
    """Return the lines of metrics.csv without the columns that depend on time."""
    lines = [line.split(",") for line in RunFolder(run).metrics.read_text().splitlines()]
    clock = {lines[0].index("images_per_s"), lines[0].index("seconds")}
    return [",".join(cell for place, cell in enumerate(line) if place not in clock) for line in lines]


@pytest.mark.parametrize(("write", "epochs"), [(1, 0), (2, 0), (3, 1), (5, 2)])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    uninterrupted: TrainingResult, toys: Path, dataset: Dataset, tmp_path: Path, write: int, epochs: int
) -> None:
    folder = killed_at(write, toys, tmp_path / "run")
    rows = folder.metrics.read_text().splitlines() if folder.metrics.exists() else [""]
    assert len(rows) - 1 in (epochs, epochs + 1)
    if folder.checkpoint.exists():  # complete, whichever file was being written
        load_model(read_checkpoint(folder.checkpoint))
    resumed = fit(RECIPE, dataset, folder.path, data_options=OpenOptions(toys), machine=ONE_THREAD, resume=True)
    assert without_times(folder.path) == without_times(uninterrupted.run_folder)
    first, second = (read_checkpoint(run.checkpoint).state_dict for run in (uninterrupted, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {path.name for path in folder.path.iterdir()} == {path.name for path in uninterrupted.run_folder.iterdir()}


def test_the_command_resumes_with_the_data_and_recipe_of_the_run_folder(
    uninterrupted: TrainingResult, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed_at(5, toys, tmp_path / "run")
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(folder.path), "--threads", "1", "--device", "cpu"])
    assert caught.value.code == 0
    assert without_times(folder.path) == without_times(uninterrupted.run_folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 3/5: ") and "best.pt: best epoch " in lines[-1]


def test_a_run_stopped_before_its_first_epoch_resumes_from_the_initial_weights(
    toys: Path, dataset: Dataset, tmp_path: Path
) -> None:
    weights, recipe = tmp_path / "start.pth", toy_recipe(weights="file", epochs=1)
    torch.save(CarClassifier(recipe.architecture, 2, recipe.preprocess).backbone.state_dict(), weights)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "train":
            raise KeyboardInterrupt

    run, options = tmp_path / "run", OpenOptions(toys)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, dataset, run, data_options=options, weights_file=weights, machine=ONE_THREAD, progress=stop)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(run), "--threads", "1", "--device", "cpu"])
    assert ended.value.code == 0


def test_a_finished_run_is_not_repeated(uninterrupted: TrainingResult, dataset: Dataset) -> None:
    again = fit(RECIPE, dataset, uninterrupted.run_folder, machine=ONE_THREAD, resume=True)
    assert again.epochs == uninterrupted.epochs


def test_the_state_of_a_run_is_not_taken_for_its_checkpoint(uninterrupted: TrainingResult) -> None:
    state = RunFolder(uninterrupted.run_folder).state
    for read in (read_checkpoint, read_state_dict):
        with pytest.raises(ModelError, match=r"last\.pt is the state .*, not a checkpoint: use best\.pt beside it"):
            read(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "epochs=9"], "leave out --set"),
        (["-o", "elsewhere", "--weights", "none"], "leave out --output, --weights"),
        (["cars"], "leave out DATA"),
    ],
)
def test_resume_rejects_other_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(tmp_path), *options])
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_a_state_of_another_run_is_rejected(uninterrupted: TrainingResult, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="belongs to another recipe than this run"):
        fit(toy_recipe(), dataset, uninterrupted.run_folder, machine=ONE_THREAD, resume=True)
    folder = RunFolder(tmp_path / "run")
    fit(toy_recipe(epochs=1), dataset, folder.path, machine=ONE_THREAD)
    fewer = dataset.select(sample.name for sample in dataset.samples)
    folder.state.write_bytes(folder.checkpoint.read_bytes())
    with pytest.raises(ModelError, match=r"last\.pt is not a training state: start over with `overwrite=True`"):
        fit(toy_recipe(epochs=1), fewer, folder.path, machine=ONE_THREAD, resume=True)
    folder.state.write_bytes(folder.checkpoint.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"last\.pt is not a readable checkpoint"):
        fit(toy_recipe(epochs=1), fewer, folder.path, machine=ONE_THREAD, resume=True)


def _other_model(loop: dict[str, Any]) -> None:
    name = next(iter(loop["model"]))
    loop["model"][name] = torch.zeros(3)


def _no_optimizer(loop: dict[str, Any]) -> None:
    del loop["optimizer"]


def _fewer_groups(loop: dict[str, Any]) -> None:
    loop["optimizer"]["param_groups"].pop()


@pytest.mark.parametrize("alter", [_other_model, _no_optimizer, _fewer_groups])
def test_a_corrupt_state_is_a_one_line_error_and_is_not_overwritten(
    alter: Callable[[dict[str, Any]], None], dataset: Dataset, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    fit(toy_recipe(epochs=1), dataset, folder.path, machine=ONE_THREAD)
    state = torch.load(folder.state, weights_only=True)
    alter(state["loop"])
    state["epochs"] = []  # as if no epoch were finished
    torch.save(state, folder.state)
    before = folder.state.read_bytes()
    with pytest.raises(ModelError, match="does not fit the model of its recipe: start over with `overwrite=True`"):
        fit(toy_recipe(epochs=1), dataset, folder.path, machine=ONE_THREAD, resume=True)
    assert folder.state.read_bytes() == before


FULL = """
import resource, sys
from tests.training.test_resume import RECIPE, ONE_THREAD
from twincar_edge.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # writing larger files fails as on a full disk
main(["train", sys.argv[1], "-o", sys.argv[2], "--recipe", sys.argv[3], "--device", "cpu", "--threads", "1"])
"""


def test_a_full_disk_is_a_one_line_error_without_partial_files(toys: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "toy.toml"
    keys = ('architecture = "test_resnet"', 'weights = "none"', "size = 32", "epochs = 1", "batch_size = 16")
    recipe.write_text("\n".join(keys) + "\n")
    run = tmp_path / "run"
    command = [sys.executable, "-c", FULL, str(toys), str(run), str(recipe)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: cannot write ")]) == 1
    assert "Traceback" not in done.stderr
    assert not (run / "best.pt").exists() and not [path for path in run.iterdir() if path.name.startswith(".")]
