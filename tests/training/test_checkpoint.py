"""Checkpoints hold weights and plain values. Other contents are refused in one line, and code in them never runs."""

from __future__ import annotations

import argparse
import errno
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from tests.support.training_toys import TINY
from twincar_edge.errors import InputError, ModelError, TwincarError
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import DataRecord
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.checkpoint import (
    read_checkpoint,
    read_state_dict,
    write_checkpoint,
    write_safetensors,
    write_state_dict,
)
from twincar_edge.training.checkpoint_files import METADATA_KEY
from twincar_edge.training.model import CarClassifier, load_model

NAMES = ClassMapping(("Alpha Sedan 2010", "Beta Coupé 2011", "Gamma SUV 2012"))
# Tensors that identify a ResNet50 with the head of the original TwinCar, with three outputs.
ORIGINAL = {name: torch.zeros(2) for name in ("conv1.weight", "layer4.2.conv3.weight", "fc.0.weight", "fc.3.weight")}
ORIGINAL["fc.3.bias"] = torch.zeros(3)


def write(path: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "architecture": TINY,
        "state_dict": {"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.int64)},
        "classes": NAMES,
        "preprocess": Preprocess(size_wh=(48, 32), resize="letterbox", color="bgr"),
        "recipe": {"epochs": 3, "augmentation": {"flip": 0.5}},
        "data": DataRecord(name="blobs", images=18, digest="0" * 64),
        "epoch": 2,
        "validation_top1": 0.75,
        "validation_top5": 1.0,
    }
    (write_safetensors if path.suffix == ".safetensors" else write_checkpoint)(path, **(content | changes))
    return path


def with_header(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


def altered(path: Path, **changes: Any) -> Path:
    document = torch.load(path, weights_only=True)
    torch.save(document | changes, path)
    return path


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_a_checkpoint_round_trips(tmp_path: Path, name: str) -> None:
    checkpoint = read_checkpoint(write(tmp_path / name))
    assert (checkpoint.architecture, checkpoint.classes, checkpoint.epoch) == (TINY, NAMES, 2)
    assert checkpoint.preprocess == Preprocess(size_wh=(48, 32), resize="letterbox", color="bgr")
    assert checkpoint.recipe == {"epochs": 3, "augmentation": {"flip": 0.5}}
    assert checkpoint.data == DataRecord(name="blobs", images=18, digest="0" * 64)
    assert (checkpoint.validation_top1, checkpoint.validation_top5) == (0.75, 1.0)
    assert torch.equal(checkpoint.state_dict["a"], torch.arange(4.0))
    assert checkpoint.state_dict["b"].dtype == torch.int64
    assert len(checkpoint.sha256) == 64 and checkpoint.name == name


def test_converting_between_file_formats_is_lossless(tmp_path: Path) -> None:
    first = read_checkpoint(write(tmp_path / "best.pt"))
    write_safetensors(tmp_path / "best.safetensors", **first.contents())
    second = read_checkpoint(tmp_path / "best.safetensors")
    for part, value in first.contents().items():
        if part != "state_dict":
            assert second.contents()[part] == value  # type: ignore[literal-required]
    assert second.state_dict.keys() == first.state_dict.keys()
    assert all(torch.equal(tensor, first.state_dict[name]) for name, tensor in second.state_dict.items())


def test_the_same_contents_give_the_same_safetensors_bytes(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.safetensors") for number in range(5)]
    assert len({path.read_bytes() for path in paths}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]


def test_a_safetensors_file_with_another_suffix_is_rejected(tmp_path: Path) -> None:
    contents = read_checkpoint(write(tmp_path / "best.pt")).contents()
    with pytest.raises(InputError, match=r"lacks the suffix of a safetensors file: use \.safetensors"):
        write_safetensors(tmp_path / "m.pth", **contents)
    assert not (tmp_path / "m.pth").exists()


def test_half_precision_halves_the_file_and_reads_as_float32(tmp_path: Path) -> None:
    state_dict = {"a": torch.linspace(-3, 3, 10_000), "b": torch.ones(2, dtype=torch.int64)}
    whole = write(tmp_path / "whole.safetensors", state_dict=state_dict)
    half = write(tmp_path / "half.safetensors", state_dict=state_dict, half=True)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    read = read_checkpoint(half).state_dict
    assert read["a"].dtype == torch.float32 and read["b"].dtype == torch.int64
    assert torch.equal(read["a"], state_dict["a"].half().float())


@pytest.mark.parametrize("value", [65520.0, -1e9])
def test_a_value_too_large_for_half_precision_is_named_and_nothing_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ModelError, match="running_var has values above 65504"):
        write(tmp_path / "half.safetensors", state_dict={"running_var": torch.tensor([1.0, value])}, half=True)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "half.safetensors", state_dict={"running_var": torch.tensor([1.0, 65504.0])}, half=True)


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_a_checkpoint_contains_no_path_and_only_the_values_of_its_tensors(tmp_path: Path, name: str) -> None:
    large = torch.zeros(1_000_000)
    path = write(tmp_path / "secret-folder" / name, state_dict={"a": large[:4]})
    assert path.stat().st_size < 10_000
    assert b"secret-folder" not in path.read_bytes()


class Payload:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("where", ["whole", "inside", "old format", "plain pickle"])
def test_a_pickle_that_is_not_weights_is_refused_and_not_executed(tmp_path: Path, where: str) -> None:
    proof, path = tmp_path / "proof", tmp_path / "best.pt"
    payload = Payload(proof)
    if where == "plain pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        content = {"format": "twincar-edge checkpoint", "state_dict": payload} if where == "inside" else payload
        torch.save(content, path, _use_new_zipfile_serialization=where != "old format")
    for read in (read_checkpoint, read_state_dict):
        with pytest.raises(
            ModelError, match=r"was not loaded, because it holds Python objects|is not a readable checkpoint"
        ):
            read(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(payload))
    assert proof.exists()  # the payload works if it is loaded


def test_a_whole_model_is_refused_with_advice_to_save_its_state_dict(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"save model\.state_dict\(\) instead"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors", "ours as safetensors"])
def test_corrupt_files_raise_only_our_errors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("best.safetensors" if "safetensors" in kind else "best.pt")
    if kind == "ours as safetensors":
        write(path)
    elif kind == "safetensors":
        safetensors.torch.save_file(ORIGINAL, path)
    else:
        torch.save(dict(ORIGINAL), path, _use_new_zipfile_serialization=kind == "zip")
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
        ({"schema_version": 2}, "schema version 2, but this release reads only version 1"),
        ({"classes": ["a", "a", "b"]}, "'a' appears twice"),
        ({"classes": []}, "1 to 100000 names, found 0"),
        ({"preprocess": {"size_wh": [0, 1]}}, r"at preprocess\.size_wh\.0"),
        ({"epoch": -1}, "at epoch"),
        ({"validation_top1": 1.5}, "at validation_top1"),
        ({"architecture": 3}, "at architecture"),
        ({"surprise": 1}, "at surprise"),
        ({"state_dict": {"a": 3}}, "state_dict"),
        ({"state_dict": {"a": torch.tensor([1.0, float("nan")])}}, "a has values that are not finite"),
        ({"state_dict": {"a": torch.zeros(1).expand(10**9)}}, "a claims more values than the file holds"),
        (
            {"state_dict": dict.fromkeys(map(str, range(5)), torch.zeros(9, dtype=torch.float16))},
            "claims more than 4 times the values",
        ),
        ({"state_dict": {"a": torch.eye(3).to_sparse()}}, "a is not a plain dense tensor"),
    ],
)
def test_an_invalid_checkpoint_names_the_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_checkpoint(altered(write(tmp_path / "best.pt"), **changes))
    assert "best.pt" in str(caught.value) and "\n" not in str(caught.value)


TENSOR = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b"", None),
        (b"{}", 2**40),
        (b"{}", 2**63),
        (b"{" * 1000, None),
        (b"\xff\xfe", None),
        (b"[1]", None),
        (json.dumps(TENSOR | {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}).encode(), None),
        (json.dumps(TENSOR | {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 40]}}).encode(), None),
        (json.dumps(TENSOR | {"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode(), None),
        (json.dumps(TENSOR | {"a": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}).encode(), None),
        (json.dumps(TENSOR | {"__metadata__": {METADATA_KEY: {"epoch": 1}}}).encode(), None),
    ],
)
def test_a_wrong_safetensors_header_is_rejected(tmp_path: Path, header: bytes, length: int | None) -> None:
    path = with_header(tmp_path / "m.safetensors", header, bytes(4), length)
    for read in (read_checkpoint, read_state_dict):
        with pytest.raises(ModelError, match=r"m\.safetensors is not a readable checkpoint"):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "its metadata is not valid JSON"),
        ("[" * 100_000, "its metadata is not valid JSON"),
        ("[1, 2]", "its metadata is not a JSON object"),
        (
            '{"format": "twincar-edge checkpoint", "schema_version": 9}',
            "schema version 9, but this release reads only version 1",
        ),
        ('{"format": "twincar-edge checkpoint", "schema_version": 1}', "is not a valid checkpoint, at architecture"),
        ("{}", "neither a checkpoint of `twincar-edge train` nor TwinCar's"),
    ],
)
def test_invalid_safetensors_metadata_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {METADATA_KEY: text})
    with pytest.raises(ModelError, match=message) as caught:
        read_checkpoint(path)
    assert "m.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, "a has values that are not finite"),
        ({"a": torch.tensor([float("inf")], dtype=torch.float16)}, "a has values that are not finite"),
        ({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, r"a has an unsupported dtype .*float8"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, r"a has an unsupported dtype .*complex64"),
        ({}, "it has 0 tensors"),
    ],
)
def test_unsupported_tensors_are_named(
    tmp_path: Path, suffix: str, state_dict: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_checkpoint(write(tmp_path / f"m{suffix}", state_dict=state_dict))


@pytest.mark.parametrize("value", [torch.zeros(2), b"bytes", {2j: "key"}, float("nan"), "\ud800"])
def test_a_recipe_that_cannot_be_written_as_json_is_refused(tmp_path: Path, value: object) -> None:
    path = altered(write(tmp_path / "best.pt"), recipe={"epochs": value})
    with pytest.raises(ModelError, match=r"at recipe: .*not plain values"):
        read_checkpoint(path)


@pytest.mark.parametrize("missing", ["architecture", "preprocess", "state_dict", "recipe"])
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path / "best.pt")
    document = torch.load(path, weights_only=True)
    del document[missing]
    torch.save(document, path)
    with pytest.raises(ModelError, match=f"at {missing}"):
        read_checkpoint(path)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model_state_dict"])
def test_the_originals_state_dict_is_recognized_bare_or_wrapped(tmp_path: Path, wrap: str | None) -> None:
    path = tmp_path / "twin_car_best_model_v2.pth"
    torch.save(ORIGINAL if wrap is None else {wrap: ORIGINAL, "epoch": 12}, path)
    (tmp_path / "class_mapping.json").write_text(NAMES.to_json())
    checkpoint = read_checkpoint(path)
    assert (checkpoint.architecture, checkpoint.classes, checkpoint.preprocess) == ("resnet50", NAMES, Preprocess())
    assert checkpoint.state_dict.keys() == ORIGINAL.keys()
    assert (checkpoint.recipe, checkpoint.data, checkpoint.epoch, checkpoint.validation_top1) == ({}, None, None, None)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in ORIGINAL.items()}


COMMON_FORMATS: dict[str, Any] = {
    "DataParallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled in DataParallel": prefixed("module._orig_mod."),
    "AveragedModel": {"n_averaged": torch.tensor(3), **prefixed("module.")},
    "model": {"model": ORIGINAL, "epoch": 3},
    "net": {"net": prefixed("module."), "acc": 98.2},
    "ema alone": {"ema": {"module": ORIGINAL, "updates": 3}},
    "Lightning": {
        "state_dict": {**prefixed("model."), "criterion.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
    },
    "numpy scalar": {"state_dict": ORIGINAL, "best": np.float64(0.93)},
    "numpy array": {"state_dict": ORIGINAL, "history": np.zeros(3)},
    "Namespace": {"model": ORIGINAL, "args": argparse.Namespace(lr=0.1, output=Path("runs"))},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", COMMON_FORMATS)
def test_weights_are_found_in_the_formats_of_common_training_scripts(tmp_path: Path, kind: str, zipped: bool) -> None:
    torch.save(COMMON_FORMATS[kind], tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    (tmp_path / "class_mapping.json").write_text(NAMES.to_json())
    assert read_checkpoint(tmp_path / "m.pth").state_dict.keys() == ORIGINAL.keys()


def test_averaged_weights_are_used_only_if_there_are_no_others(tmp_path: Path) -> None:
    torch.save({"ema": {"a": torch.ones(1)}, "model": {"a": torch.zeros(1)}}, tmp_path / "m.pth")
    assert read_state_dict(tmp_path / "m.pth")["a"].item() == 0


def test_objects_beside_the_weights_are_never_constructed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": ORIGINAL, "args": argparse.Namespace(lr=0.1)}, tmp_path / "m.pth")
    made = []
    monkeypatch.setattr(argparse.Namespace, "__new__", lambda cls: made.append(cls) or object.__new__(cls))
    assert read_state_dict(tmp_path / "m.pth").keys() == ORIGINAL.keys() and not made
    assert torch.load(tmp_path / "m.pth", weights_only=False)["args"] and made


def test_harmful_objects_beside_harmless_ones_are_refused(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    content = {"state_dict": ORIGINAL, "args": argparse.Namespace(), "best": np.float64(1), "x": Payload(proof)}
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"holds Python objects such as \w+\.system, which can run"):
        read_state_dict(tmp_path / "m.pth")
    assert not proof.exists()


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    model = CarClassifier(TINY, 3, Preprocess(size_wh=(48, 32)))
    checkpoint = read_checkpoint(write(tmp_path / "m.pt", state_dict=model.backbone.state_dict()))
    counts = {name for name in checkpoint.state_dict if name.endswith("num_batches_tracked")}
    old = {name: tensor for name, tensor in checkpoint.state_dict.items() if name not in counts}
    image = torch.rand(1, 3, 48, 32)
    with torch.no_grad():
        expected = load_model(checkpoint).backbone(image)
        found = load_model(read_checkpoint(write(tmp_path / "old.pt", state_dict=old))).backbone(image)
    assert counts and torch.equal(expected, found)


def test_safetensors_are_recognized_by_content(tmp_path: Path) -> None:
    safetensors.torch.save_file(ORIGINAL, tmp_path / "pytorch_model.bin")
    assert read_state_dict(tmp_path / "pytorch_model.bin").keys() == ORIGINAL.keys()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("TorchScript", r"is a TorchScript archive, which contains code .* torch\.jit\.load .* save its state_dict"),
        ("torch.export", r"is a program of torch\.export, .* save its state_dict"),
        ("NumPy", "is an archive of NumPy arrays"),
        ("Keras", "is an HDF5 file, as written by Keras"),
        ("unknown prefix", r"no tensor conv1\.weight; its first tensor is 'backbone\.conv1\.weight'"),
    ],
)
def test_files_of_other_formats_are_named_in_the_error(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "m.pt"
    if kind == "Keras":
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    elif kind == "unknown prefix":
        torch.save(prefixed("backbone."), path)
    else:  # only the member that identifies each kind of archive, because writing real ones takes seconds
        member = {"TorchScript": "m/constants.pkl", "torch.export": "m/archive_format", "NumPy": "a.npy"}[kind]
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data/0", b"")
            archive.writestr(member, b"pt2")
    with pytest.raises(ModelError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_the_originals_state_dict_is_recognized_as_safetensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    halved = {name: tensor.half() for name, tensor in ORIGINAL.items()}
    safetensors.torch.save_file(halved, tmp_path / "model.safetensors", metadata)
    (tmp_path / "class_mapping.json").write_text(NAMES.to_json())
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert (checkpoint.architecture, checkpoint.classes) == ("resnet50", NAMES)
    assert {tensor.dtype for tensor in checkpoint.state_dict.values()} == {torch.float32}


def test_a_bare_state_dict_is_read_as_the_originals(tmp_path: Path) -> None:
    write_state_dict(tmp_path / "twin_car_best_model.pth", ORIGINAL)
    loaded = torch.load(tmp_path / "twin_car_best_model.pth", weights_only=True)
    assert loaded.keys() == ORIGINAL.keys()  # not wrapped: load_state_dict accepts it
    (tmp_path / "class_mapping.json").write_text(NAMES.to_json())
    assert read_checkpoint(tmp_path / "twin_car_best_model.pth").classes == NAMES


def test_a_bare_state_dict_loads_into_timms_own_model(tmp_path: Path) -> None:
    model = CarClassifier(TINY, 3, Preprocess(size_wh=(32, 32)))
    write_state_dict(tmp_path / "m.pth", model.backbone.state_dict())
    theirs = timm.create_model(TINY, num_classes=3)
    theirs.load_state_dict(torch.load(tmp_path / "m.pth", weights_only=True))
    assert torch.equal(theirs.fc.weight, model.backbone.fc.weight)


def test_a_state_dict_without_class_names_is_refused_with_the_place_for_them(tmp_path: Path) -> None:
    path = tmp_path / "twin_car_best_model_v2.pth"
    torch.save(ORIGINAL, path)
    with pytest.raises(ModelError, match=r"put its class_mapping\.json next to it .*`class_mapping`"):
        read_checkpoint(path)
    (tmp_path / "elsewhere.json").write_text(NAMES.to_json())
    assert read_checkpoint(path, tmp_path / "elsewhere.json").classes == NAMES


def test_a_mapping_of_another_size_is_an_error_with_both_counts(tmp_path: Path) -> None:
    (tmp_path / "four.json").write_text(ClassMapping(("a", "b", "c", "d")).to_json())
    torch.save(ORIGINAL, tmp_path / "raw.pth")
    for path in (tmp_path / "raw.pth", write(tmp_path / "best.pt")):
        with pytest.raises(ModelError, match=r"has 3 outputs, but .*four\.json has 4 names"):
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
def test_unusable_weight_files_are_explained(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=message):
        read_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["best.pt", "best.SafeTensors"])
@pytest.mark.parametrize("kind", ["absent", "folder", "empty", "text", "jpeg"])
def test_a_file_that_is_not_a_checkpoint_is_a_one_line_error(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.write_bytes({"empty": b"", "text": b"hello\n", "jpeg": b"\xff\xd8\xff\xe0" + bytes(100)}[kind])
    with pytest.raises(ModelError, match=rf"{name}"):
        read_checkpoint(path)


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "best.pt")
    before = path.read_bytes()

    def half(_document: Any, target: Path) -> None:
        Path(target).write_bytes(before[: len(before) // 2])
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file\nbacktrace")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(TwincarError, match=r"cannot write .*best\.pt: .*PytorchStreamWriter failed writing file$"):
        write(path, epoch=3)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_failed_safetensors_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "best.safetensors")
    before = path.read_bytes()

    write_bytes = Path.write_bytes

    def half(target: Path, data: bytes) -> int:
        write_bytes(target, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(TwincarError, match=r"cannot write .*best\.safetensors: .*No space left on device"):
        write(path, epoch=3)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_initial_weights_can_come_from_any_checkpoint(tmp_path: Path) -> None:
    model = CarClassifier(TINY, 3, Preprocess(size_wh=(32, 32)))
    state_dict = model.backbone.state_dict()
    assert read_state_dict(write(tmp_path / "ours.pt", state_dict=state_dict)).keys() == state_dict.keys()
    torch.save(state_dict, tmp_path / "bare.pth")
    safetensors.torch.save_file(dict(state_dict), tmp_path / "bare.safetensors")
    ours = write(tmp_path / "ours.safetensors", state_dict=state_dict, half=True)
    for path in (tmp_path / "bare.pth", tmp_path / "bare.safetensors", ours):
        assert read_state_dict(path).keys() == state_dict.keys()


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "best.pt", state_dict={"a": torch.zeros(1_000_000)})
    deflated = tmp_path / "deflated.pt"
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert deflated.stat().st_size < 20_000
    with pytest.raises(ModelError, match=r"inflate to 40\d+, more than 10 times as many"):
        read_checkpoint(deflated)


def test_a_recompressed_archive_is_read(tmp_path: Path) -> None:
    state_dict = {"a": torch.randn(10_000, generator=torch.Generator().manual_seed(0))}
    path, packed = write(tmp_path / "best.pt", state_dict=state_dict), tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert torch.equal(read_checkpoint(packed).state_dict["a"], state_dict["a"])
