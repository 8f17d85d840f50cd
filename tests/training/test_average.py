"""The mean of several checkpoints: its weights, its record, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training_toys import TINY
from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import DataRecord
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.average import average, main
from twincar_edge.training.checkpoint import read_checkpoint, write_checkpoint
from twincar_edge.training.model import CarClassifier, load_model, torch_predict

NAMES = ClassMapping(("Alpha Sedan 2010", "Beta Coupe 2011"))
PREPROCESS = Preprocess(size_wh=(32, 32))
DATA = DataRecord(name="blobs", images=18, digest="0" * 64)


def write(path: Path, seed: int, **changes: Any) -> Path:
    """Write a toy model whose weights depend on the seed."""
    torch.manual_seed(seed)
    model = CarClassifier(TINY, len(NAMES), PREPROCESS)
    content: dict[str, Any] = {
        "architecture": TINY,
        "state_dict": model.backbone.state_dict(),
        "classes": NAMES,
        "preprocess": PREPROCESS,
        "recipe": {"epochs": 3, "seed": seed},
        "data": DATA,
        "epoch": 3,
        "validation_top1": 0.75,
    }
    write_checkpoint(path, **(content | changes))
    return path


def test_each_weight_is_the_mean_and_the_record_names_the_sources(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seed}.pt", seed) for seed in range(3)]
    assert main([str(tmp_path / "mean.pt"), *map(str, paths)]) == 0
    mean, *sources = map(read_checkpoint, [tmp_path / "mean.pt", *paths])
    for name, found in mean.state_dict.items():
        expected = np.mean([source.state_dict[name].numpy() for source in sources], axis=0, dtype=np.float64)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert mean.recipe == {"epochs": 3, "seed": 0, "averaged": [source.sha256 for source in sources]}
    assert (mean.classes, mean.preprocess, mean.data) == (NAMES, PREPROCESS, DATA)
    assert (mean.epoch, mean.validation_top1) == (None, None)  # those of a source would claim what nobody measured
    logits = torch_predict(load_model(mean))(np.zeros((1, 32, 32, 3), np.uint8))
    assert np.isfinite(logits).all()


def test_a_mean_counts_as_many_as_its_trainings(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seed}.pt", seed) for seed in range(4)]
    for target, *sources in (["all.pt", *range(4)], ["three.pt", *range(3)]):
        assert main([str(tmp_path / target), *(str(paths[seed]) for seed in sources)]) == 0
    assert main([str(tmp_path / "grown.pt"), str(tmp_path / "three.pt"), str(paths[3])]) == 0
    expected, found = (read_checkpoint(tmp_path / name) for name in ("all.pt", "grown.pt"))
    assert found.recipe == expected.recipe
    for name, tensor in expected.state_dict.items():
        torch.testing.assert_close(found.state_dict[name], tensor, rtol=1e-5, atol=1e-6)


def test_trainings_at_other_sizes_have_a_mean_with_the_size_of_the_first(tmp_path: Path) -> None:
    wide = Preprocess(size_wh=(48, 32), interpolation="pyramid")
    paths = [write(tmp_path / "square.pt", 0), write(tmp_path / "wide.pt", 1, preprocess=wide)]
    assert average([read_checkpoint(path) for path in paths])["preprocess"] == PREPROCESS
    assert average([read_checkpoint(path) for path in reversed(paths)])["preprocess"] == wide


def test_the_mean_of_equal_weights_is_the_same_weights_with_the_counts(tmp_path: Path) -> None:
    one = read_checkpoint(write(tmp_path / "one.pt", 1))
    counted = {name: tensor + 7 * (not tensor.is_floating_point()) for name, tensor in one.state_dict.items()}
    mean = average([read_checkpoint(write(tmp_path / f"{n}.pt", 1, state_dict=counted)) for n in range(2)])
    assert not all(tensor.is_floating_point() for tensor in counted.values())
    for name, tensor in mean["state_dict"].items():
        assert tensor.dtype == counted[name].dtype and torch.equal(tensor, counted[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ClassMapping(("Alpha Sedan 2010", "Gamma Coupe 2011"))}, "in its classes"),
        ({"preprocess": Preprocess(size_wh=(32, 32), color="bgr")}, "in its preprocessing"),
        ({"data": DataRecord(name="blobs", images=18, digest="1" * 64)}, "in its training images"),
        ({"data": None}, "in its training images"),
    ],
    ids=["classes", "size", "images", "unknown images"],
)
def test_checkpoints_of_different_trainings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    sources = [read_checkpoint(write(tmp_path / "a.pt", 0)), read_checkpoint(write(tmp_path / "b.pt", 1, **changes))]
    with pytest.raises(InputError, match=rf"^b\.pt differs from a\.pt {message}$"):
        average(sources)


@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_a_checkpoint_with_other_tensors_is_refused(tmp_path: Path, damage: str) -> None:
    whole = read_checkpoint(write(tmp_path / "a.pt", 0))
    name, *_ = whole.state_dict
    rest = {key: tensor for key, tensor in whole.state_dict.items() if key != name}
    weights = rest if damage == "missing" else {**rest, name: torch.zeros(2)}
    damaged = read_checkpoint(write(tmp_path / "b.pt", 0, state_dict=weights))
    for pair in ([whole, damaged], [damaged, whole]):
        with pytest.raises(InputError, match=r"in its tensors: one of them is damaged$"):
            average(pair)


def test_wrong_usage_is_one_line_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.pt", 1)
    before = one.read_bytes()
    for arguments in (["mean.pt", str(one)], [str(one), str(one), str(one)], ["mean.pt", str(one), "missing.pt"]):
        assert main([str(tmp_path / arguments[0]), *arguments[1:]]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["one.pt"]
    assert one.read_bytes() == before
