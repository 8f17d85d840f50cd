"""Distributed training with two processes gives the weights of a single process."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.training_toys import toy_dataset, toy_recipe
from twincar_edge.datasets import open_dataset
from twincar_edge.errors import InputError
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.distributed import SingleProcess, is_main_process, join_processes, rank_slice
from twincar_edge.training.fit import fit
from twincar_edge.training.run_folder import RunFolder

# A model without batch normalization, which on CPUs uses only a process's part of a batch.
CHANGES = (
    "architecture=test_convnext2", "size=32", "weights=none", "freeze_stages=0", "epochs=2", "batch_size=16",
    "train_size=32", "first_train_size=0", "learning_rate=1e-3", "head_learning_rate=1e-3", "validation_share=0.25",
    "dropout=0", "augmentation.mixup=0", "augmentation.cutmix=0",
)  # fmt: skip


def train(data: Path, run: Path, processes: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command += ["twincar_edge", "train", str(data), "-o", str(run), "--device", "cpu", "--threads", "1"]
    for change in CHANGES:
        command += ["--set", change]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_two_processes_give_the_same_weights_as_one(tmp_path: Path) -> None:
    toy_dataset(tmp_path / "data")
    done = [train(tmp_path / "data", tmp_path / f"run{count}", count) for count in (1, 2)]
    assert [process.returncode for process in done] == [0, 0], done[1].stderr
    assert done[1].stdout.count("epoch 1/2") == 1  # only the main process prints
    rows = []
    for count in (1, 2):
        with RunFolder(tmp_path / f"run{count}").metrics.open() as file:
            rows.append(list(csv.DictReader(file)))
    assert len(rows[0]) == len(rows[1]) == 2
    for one, two in zip(*rows, strict=True):
        for name in one.keys() - {"images_per_s", "seconds"}:
            assert float(two[name]) == pytest.approx(float(one[name]), abs=2e-3), name
    states = [read_checkpoint(RunFolder(tmp_path / f"run{count}").checkpoint).state_dict for count in (1, 2)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=2e-3, rtol=0)
    assert '"processes": 2' in RunFolder(tmp_path / "run2").environment.read_text()


def test_a_single_process_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    processes, device = join_processes(torch.device("cpu"))
    assert isinstance(processes, SingleProcess) and device.type == "cpu" and is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


def test_an_indivisible_batch_size_suggests_a_divisible_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Three(SingleProcess):
        count = 3

    monkeypatch.setattr("twincar_edge.training.fit.join_processes", lambda device: (Three(), device))
    toy_dataset(tmp_path / "data", per_class=4)
    with pytest.raises(
        InputError, match=r"a batch of 16 cannot be divided evenly among 3 processes: use `batch_size=18`"
    ):
        fit(toy_recipe(epochs=1), open_dataset(tmp_path / "data"), tmp_path / "run")


def test_rank_slices_are_equal_and_complete() -> None:
    class One(SingleProcess):
        def __init__(self, rank: int) -> None:
            self.rank, self.count = rank, 3

    parts = [range(10)[rank_slice(One(rank), 10)] for rank in range(3)]
    assert [number for part in parts for number in part] == list(range(10)) and {len(part) for part in parts} == {3, 4}
