"""A checkpoint instead of an exported model, and the reverse, is one line that says what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import twincar_edge as tw
from tests.support.tiny_model import tiny_model
from twincar_edge.checkpoint_signs import is_checkpoint
from twincar_edge.cli import main
from twincar_edge.images import write_image

WEIGHTS = {"weight": torch.ones(2, 2)}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return (caught.value.code, *capsys.readouterr())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A PyTorch file whose name does not show its kind."""
    torch.save(WEIGHTS, tmp_path / "best 1.model")
    return tmp_path / "best 1.model"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_image(tmp_path / "car.png", np.zeros((32, 32, 3), np.uint8))
    return tmp_path / "car.png"


def test_checkpoints_are_recognized_by_content(tmp_path: Path, checkpoint: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "old", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(WEIGHTS, tmp_path / "safe")
    assert all(map(is_checkpoint, (checkpoint, tmp_path / "old", tmp_path / "safe")))


def test_other_files_are_not_mistaken_for_checkpoints(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "best.pt", "w") as archive:
        archive.writestr("readme.txt", "data.pkl")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "claims.safetensors").write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\xff{}")
    (tmp_path / "empty.pt").write_bytes(b"")
    tiny_model(tmp_path / "exported.pt")
    assert not any(map(is_checkpoint, [*tmp_path.iterdir(), tmp_path, tmp_path / "missing.pt"]))


@pytest.mark.parametrize(
    "command",
    [
        ("classify", "{image}", "--model", "{model}"),
        ("watch", "{image}", "--model", "{model}", "--once", "--ep", "cpu"),
        ("inspect", "{model}"),
        ("bench", "{model}", "--ep", "cpu"),
        ("parity", "{model}", "--reference", "{model}"),
    ],
    ids=lambda command: command[0],
)
def test_a_command_for_exported_models_says_how_to_export_a_checkpoint(
    command: tuple[str, ...], checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *(word.format(image=image, model=checkpoint) for word in command))
    assert (code, out) == (2, "")
    assert err == f"error: {checkpoint} is a checkpoint: export it first: twincar-edge export '{checkpoint}' -o DIR\n"


def test_doctor_reports_it_in_the_row_of_the_model(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--model", checkpoint, "--ep", "cpu", "--json")
    assert code == 1
    assert f"is a checkpoint: export it first: twincar-edge export '{checkpoint}' -o DIR" in out


def test_in_python_the_message_names_a_call(checkpoint: Path) -> None:
    with pytest.raises(tw.ModelError) as caught:
        tw.Classifier(checkpoint)
    assert str(caught.value) == (
        f"{checkpoint} is a checkpoint: export it first: `tw.export({str(checkpoint)!r}, output)`"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "--checkpoint", "{model}", "{image}"),
        ("export", "{model}", "-o", "{folder}"),
        ("evaluate", "{model}", "--data", "."),
    ],
    ids=lambda command: command[0],
)
def test_a_command_for_checkpoints_rejects_an_exported_model(
    command: tuple[str, ...], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "tiny.pt")
    words = (word.format(image=image, model=model, folder=tmp_path / "out") for word in command)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err == f"error: {model} is an exported model: give the checkpoint that it was exported from\n"
