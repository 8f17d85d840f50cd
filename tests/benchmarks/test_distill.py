"""A ResNet50 learns from the bundled model, and what comes out is a checkpoint like any other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.support.training_toys import toy_dataset
from twincar_edge.benchmarks.distill_resnet50 import HINTS, POOLED, Student, Teacher, distill, hint_loss, main
from twincar_edge.bundled import default_model
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import read_manifest
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.model import CarClassifier, load_model


def bundled_classes_dataset(folder: Path) -> Dataset:
    """Two small pictures for each of the bundled model's classes."""
    rng = np.random.default_rng(3)
    classes = read_manifest(default_model()).classes
    (folder / "images").mkdir(parents=True)
    rows = ["filename,label"]
    for number in range(2 * len(classes)):
        assert cv2.imwrite(str(folder / "images" / f"{number}.png"), rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        rows.append(f"{number}.png,{number % len(classes)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "class_mapping.json").write_text(ClassMapping(tuple(classes)).to_json())
    return open_dataset(folder)


def test_the_teacher_answers_as_the_bundled_model_and_shows_its_maps() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    logits, maps = Teacher((224, 224))(torch.from_numpy(pixels))
    np.testing.assert_array_equal(logits.numpy(), open_session(default_model(), ep="cpu").run(pixels))
    stages = [
        (2, channels, 224 // stride, 224 // stride) for (_, channels), stride in zip(HINTS, (8, 16, 32), strict=True)
    ]
    assert [tuple(found.shape) for found in maps] == [*stages, (2, POOLED)]


def test_the_student_answers_as_the_model_inside_it_and_its_maps_fit_the_teachers() -> None:
    model = CarClassifier("resnet50", 196, read_manifest(default_model()).preprocess, dropout=0.0)
    student = Student(model).eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3))
    with torch.no_grad():
        logits, own = student(pixels.float())
        torch.testing.assert_close(logits, model(pixels.to(torch.uint8)))
    _, theirs = Teacher((64, 64))(pixels.float())
    assert [found.shape for found in own] == [found.shape for found in theirs]


def test_hints_cost_nothing_once_the_maps_are_the_teachers_up_to_scale() -> None:
    theirs = torch.randn(8, 5, 6, 6) * 3 + 1
    std, mean = torch.std_mean(theirs, dim=(0, 2, 3), keepdim=True)
    assert hint_loss([(theirs - mean) / std], [theirs]) < 1e-5
    assert hint_loss([torch.zeros_like(theirs)], [theirs]) > 0.9


def test_a_distilled_resnet50_is_a_checkpoint_whose_first_layers_stood_still_at_the_end(tmp_path: Path) -> None:
    dataset = bundled_classes_dataset(tmp_path / "data")
    lines: list[str] = []
    first = distill(dataset, tmp_path / "one", sizes=(32,), frozen_epochs=0, say=lines.append)
    second = distill(dataset, tmp_path / "two", sizes=(32, 32), frozen_epochs=2, say=lines.append)
    trained, frozen = read_checkpoint(first), read_checkpoint(second)
    assert (trained.architecture, trained.epoch, len(trained.classes)) == ("resnet50", 1, 196)
    assert "distill_resnet50" in trained.recipe["made_by"]
    load_model(trained)
    assert sum("held out top-1" in line for line in lines) == 3
    moved = {name: tensor.ne(1).any() for name, tensor in trained.state_dict.items() if name.endswith("bn1.weight")}
    still = {name: tensor.ne(1).any() for name, tensor in frozen.state_dict.items() if name.endswith("bn1.weight")}
    assert all(moved.values())
    assert {name for name, any_moved in still.items() if not any_moved} == {
        name for name in still if name.startswith(("bn1", "layer1", "layer2"))
    }


def test_other_classes_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_dataset(tmp_path / "data")
    assert main([str(tmp_path / "data"), "-o", str(tmp_path / "out")]) == 2
    assert "other classes than the bundled model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
