"""The open-set benchmark trains only on the known classes and measures how well it separates the others."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.experiments import run_experiment
from tests.support.training_toys import corner_image
from twincar_edge.benchmarks.experiments.open_set_ssb import SsbReport, of_classes, read_protocol
from twincar_edge.datasets import open_dataset
from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping
from twincar_edge.training.checkpoint import read_checkpoint

NAMES = ("Gray Van 2009", "Blue Coupe 2010", "Red Coupe 2011")
KEYS = (
    "architecture=test_resnet", "weights=none", "freeze_stages=0", "size=32", "train_size=32", "first_train_size=0",
    "epochs=2", "batch_size=16", "ema_decay=0", "validation_share=0.25",
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Gray pictures, which are not used for training, and blue and red ones."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rows = ["filename,label"]
    for number in range(72):
        label = number % 3
        image = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8) if label == 0 else corner_image(label - 1, rng)
        assert cv2.imwrite(str(folder / "images" / f"{number:02d}.png"), image)
        rows.append(f"{number:02d}.png,{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "class_mapping.json").write_text(ClassMapping(NAMES).to_json())
    return folder


def protocol(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({"known": [2, 1], "unknown": {"easy": [0]}} | changes))
    return path


def test_known_classes_are_learned_and_separated_from_unknown_ones(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [argument for key in KEYS for argument in ("--set", key)]
    command = [data, protocol(tmp_path / "ssb.json"), "--run", tmp_path / "run", "--device", "cpu", "--threads", "1"]
    assert run_experiment("open_set_ssb", *command, *options, "-o", tmp_path / "found.json") == 0
    printed = capsys.readouterr()
    found = SsbReport.model_validate_json((tmp_path / "found.json").read_text())
    assert printed.out == found.to_markdown() and "epoch 2: top-1" in printed.err
    assert (found.known_classes, found.known_images) == (2, 12)
    easy = found.unknown["easy"]
    assert (easy.classes, easy.images) == (1, 24)
    assert all(0 <= score <= 1 for score in (easy.probability, easy.max_logit, easy.familiarity))
    assert read_checkpoint(tmp_path / "run" / "best.pt").classes.names == (NAMES[2], NAMES[1])
    # A second call resumes the training in the folder, which is finished.
    assert run_experiment("open_set_ssb", *command, *options) == 0
    assert "epoch" not in capsys.readouterr().err


def test_classes_are_in_the_order_of_the_protocol(data: Path) -> None:
    dataset = open_dataset(data)
    chosen = of_classes(dataset, (2, 0))
    assert chosen.classes.names == (NAMES[2], NAMES[0])
    before = {sample.name: dataset.classes[sample.label] for sample in dataset.samples}
    assert {sample.name: chosen.classes[sample.label] for sample in chosen.samples} == {
        name: known for name, known in before.items() if known != NAMES[1]
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"known": [1, 1]}, "lists a class twice"),
        ({"unknown": {"easy": [2]}}, "lists a class twice"),
        ({"known": [1, 3]}, "has classes 0 to 2"),
        ({"known": []}, "is not a protocol, at"),
        ({"unknown": {"simple": [0]}}, "is not a protocol"),
    ],
)
def test_an_invalid_protocol_is_rejected(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_protocol(protocol(tmp_path / "p.json", **changes), 3)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot read the protocol"):
        read_protocol(tmp_path / "absent.json", 3)
