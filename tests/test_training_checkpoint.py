"""Checkpoints hold weights and plain values; whatever else is in one is refused in one line and never run."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training_toys import TINY
from twincar_edge.errors import ModelError, TwincarError
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import DataRecord
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.checkpoint import read_checkpoint, read_state_dict, write_checkpoint
from twincar_edge.training.model import CarClassifier

NAMES = ClassMapping(("Alpha Sedan 2010", "Beta Coupé 2011", "Gamma SUV 2012"))
# What marks a ResNet50 with the original's head; its three outputs.
ORIGINAL = {name: torch.zeros(2) for name in ("conv1.weight", "layer4.2.conv3.weight", "fc.0.weight", "fc.3.weight")}
ORIGINAL["fc.3.bias"] = torch.zeros(3)


def write(path: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "architecture": TINY,
        "state_dict": {"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.int64)},
        "classes": NAMES,
        "preprocess": Preprocess(size_wh=(48, 32), resize="letterbox", colour="bgr"),
        "recipe": {"epochs": 3, "augmentation": {"flip": 0.5}},
        "data": DataRecord(name="blobs", images=18, digest="0" * 64),
        "epoch": 2,
        "validation_top1": 0.75,
        "validation_top5": 1.0,
    }
    write_checkpoint(path, **(content | changes))
    return path


def altered(path: Path, **changes: Any) -> Path:
    document = torch.load(path, weights_only=True)
    torch.save(document | changes, path)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path / "best.pt"))
    assert (checkpoint.architecture, checkpoint.classes, checkpoint.epoch) == (TINY, NAMES, 2)
    assert checkpoint.preprocess == Preprocess(size_wh=(48, 32), resize="letterbox", colour="bgr")
    assert checkpoint.recipe == {"epochs": 3, "augmentation": {"flip": 0.5}}
    assert checkpoint.data == DataRecord(name="blobs", images=18, digest="0" * 64)
    assert (checkpoint.validation_top1, checkpoint.validation_top5) == (0.75, 1.0)
    assert torch.equal(checkpoint.state_dict["a"], torch.arange(4.0))
    assert len(checkpoint.sha256) == 64 and checkpoint.name == "best.pt"


def test_a_checkpoint_holds_no_path_and_no_more_than_its_tensors(tmp_path: Path) -> None:
    large = torch.zeros(1_000_000)
    path = write(tmp_path / "secret-folder" / "best.pt", state_dict={"a": large[:4]})
    assert path.stat().st_size < 10_000
    assert b"secret-folder" not in path.read_bytes()


class Payload:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("where", ["whole", "inside", "old format", "plain pickle"])
def test_a_pickle_that_is_not_weights_is_refused_and_never_run(tmp_path: Path, where: str) -> None:
    proof, path = tmp_path / "proof", tmp_path / "best.pt"
    payload = Payload(proof)
    if where == "plain pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        content = {"format": "twincar-edge checkpoint", "state_dict": payload} if where == "inside" else payload
        torch.save(content, path, _use_new_zipfile_serialization=where != "old format")
    for read in (read_checkpoint, read_state_dict):
        with pytest.raises(ModelError, match=r"holds more than weights|is not a checkpoint that can be read"):
            read(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(payload))
    assert proof.exists()  # so the payload does work, where somebody runs it


def test_a_whole_model_is_refused_with_the_way_to_save_its_weights(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"save model\.state_dict\(\) instead"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_end_in_our_error_whatever_the_damage(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "best.pt"
    torch.save(dict(ORIGINAL), path, _use_new_zipfile_serialization=zipped)
    (tmp_path / "class_mapping.json").write_text(NAMES.to_json())
    whole, dice, refused = path.read_bytes(), random.Random(5), 0
    for _ in range(120):
        damaged = bytearray(whole)
        if dice.random() < 0.3:
            del damaged[dice.randrange(len(damaged)) :]
        else:
            for _ in range(dice.choice((1, 3))):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except TwincarError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, this release reads 1"),
        ({"classes": ["a", "a", "b"]}, "'a' stands twice"),
        ({"classes": []}, "1 to 100000 names, found 0"),
        ({"preprocess": {"size_wh": [0, 1]}}, r"at preprocess\.size_wh\.0"),
        ({"epoch": -1}, "at epoch"),
        ({"validation_top1": 1.5}, "at validation_top1"),
        ({"architecture": 3}, "at architecture"),
        ({"surprise": 1}, "at surprise"),
        ({"state_dict": {"a": 3}}, "state_dict"),
        ({"state_dict": {"a": torch.tensor([1.0, float("nan")])}}, "a has values that are not finite"),
        ({"state_dict": {"a": torch.zeros(1).expand(10**9)}}, "a claims more values than the file holds"),
        ({"state_dict": {"a": torch.eye(3).to_sparse()}}, "a is not a plain dense tensor"),
    ],
)
def test_a_checkpoint_that_does_not_validate_says_where(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_checkpoint(altered(write(tmp_path / "best.pt"), **changes))
    assert "best.pt" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["architecture", "preprocess", "state_dict", "recipe"])
def test_a_checkpoint_without_one_of_its_parts_says_which(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path / "best.pt")
    document = torch.load(path, weights_only=True)
    del document[missing]
    torch.save(document, path)
    with pytest.raises(ModelError, match=f"at {missing}"):
        read_checkpoint(path)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model_state_dict"])
def test_the_originals_state_dict_is_known_bare_or_wrapped(tmp_path: Path, wrap: str | None) -> None:
    path = tmp_path / "twin_car_best_model_v2.pth"
    torch.save(ORIGINAL if wrap is None else {wrap: ORIGINAL, "epoch": 12}, path)
    (tmp_path / "class_mapping.json").write_text(NAMES.to_json())
    checkpoint = read_checkpoint(path)
    assert (checkpoint.architecture, checkpoint.classes, checkpoint.preprocess) == ("resnet50", NAMES, Preprocess())
    assert checkpoint.state_dict.keys() == ORIGINAL.keys()
    assert (checkpoint.recipe, checkpoint.data, checkpoint.epoch, checkpoint.validation_top1) == ({}, None, None, None)


def test_a_state_dict_without_class_names_says_where_they_belong(tmp_path: Path) -> None:
    path = tmp_path / "twin_car_best_model_v2.pth"
    torch.save(ORIGINAL, path)
    with pytest.raises(ModelError, match=r"put its class_mapping\.json beside it .*--class-mapping"):
        read_checkpoint(path)
    (tmp_path / "elsewhere.json").write_text(NAMES.to_json())
    assert read_checkpoint(path, tmp_path / "elsewhere.json").classes == NAMES


def test_a_mapping_of_another_size_is_an_error_with_both_counts(tmp_path: Path) -> None:
    (tmp_path / "four.json").write_text(ClassMapping(("a", "b", "c", "d")).to_json())
    torch.save(ORIGINAL, tmp_path / "raw.pth")
    for path in (tmp_path / "raw.pth", write(tmp_path / "best.pt")):
        with pytest.raises(ModelError, match=r"has 3 outputs and .*four\.json 4 names"):
            read_checkpoint(path, tmp_path / "four.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1.weight": torch.zeros(2)}, "neither a checkpoint of `twincar-edge train` nor TwinCar's ResNet50"),
        ({}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
        ({"a": torch.zeros(1), "b": "words"}, "'b' is a str, not a tensor"),
        ({3: torch.zeros(1)}, "holds no state dict"),
    ],
)
def test_files_of_weights_that_are_not_ours_say_what_they_lack(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=message):
        read_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize("kind", ["absent", "folder", "empty", "text", "jpeg"])
def test_what_is_no_checkpoint_at_all_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "best.pt"
    if kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.write_bytes({"empty": b"", "text": b"hello\n", "jpeg": b"\xff\xd8\xff\xe0" + bytes(100)}[kind])
    with pytest.raises(ModelError, match=r"best\.pt"):
        read_checkpoint(path)


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "best.pt")
    before = path.read_bytes()

    def half(_document: Any, target: Path) -> None:
        Path(target).write_bytes(before[: len(before) // 2])
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file\nbacktrace")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(TwincarError, match=r"cannot write .*best\.pt: .*PytorchStreamWriter failed writing file$"):
        write(path, epoch=3)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_weights_that_start_a_training_come_out_of_any_checkpoint(tmp_path: Path) -> None:
    model = CarClassifier(TINY, 3, Preprocess(size_wh=(32, 32)))
    state_dict = model.backbone.state_dict()
    assert read_state_dict(write(tmp_path / "ours.pt", state_dict=state_dict)).keys() == state_dict.keys()
    torch.save(state_dict, tmp_path / "bare.pth")
    assert read_state_dict(tmp_path / "bare.pth").keys() == state_dict.keys()
