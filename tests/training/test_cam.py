"""Heat maps show what an answer depends on and do not change the model; a sheet shows right and wrong answers."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.support.training_toys import TINY, corner_image, toy_dataset
from twincar_edge.datasets import Dataset, ImageFile, Sample
from twincar_edge.draw import GREEN, RED
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.training.cam import heat_maps
from twincar_edge.training.cam_grid import choose_right, choose_wrong, write_cam_grid
from twincar_edge.training.evaluation import Evaluation, evaluate, evaluate_logits
from twincar_edge.training.model import CarClassifier, cam_layer, torch_predict

SIDE = 96
SQUARE = Preprocess(size_wh=(SIDE, SIDE))


@pytest.fixture(scope="module")
def model() -> CarClassifier:
    """A model trained on images whose classes differ only in the upper left."""
    torch.manual_seed(0)
    model = CarClassifier(TINY, 2, SQUARE, dropout=0.0)
    rng = np.random.default_rng(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    labels = torch.tensor([0, 1] * 8)
    model.train()
    for _ in range(40):
        batch_nhwc = torch.from_numpy(prepare_batch([corner_image(int(y), rng, SIDE) for y in labels], SQUARE))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch_nhwc), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def batch_nhwc() -> np.ndarray:
    rng = np.random.default_rng(9)
    return prepare_batch([corner_image(label, rng, SIDE) for label in (0, 1, 1)], SQUARE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return toy_dataset(tmp_path_factory.mktemp("cam") / "data", per_class=6, size=SIDE)


def test_heat_maps_are_hot_where_the_classes_differ(model: CarClassifier, batch_nhwc: np.ndarray) -> None:
    heat = heat_maps(model, batch_nhwc, [0, 1, 1])
    assert heat.dtype == np.float32 and heat.shape == (3, SIDE, SIDE)
    patch = slice(SIDE // 16, SIDE // 3)
    for heatmap in heat:
        assert heatmap.min() >= 0 and 0.9 < heatmap.max() <= 1
        assert heatmap[patch, patch].mean() > 3 * heatmap[SIDE // 2 :, SIDE // 2 :].mean()


def test_heat_maps_do_not_depend_on_the_batch(model: CarClassifier, batch_nhwc: np.ndarray) -> None:
    together = heat_maps(model, batch_nhwc, [0, 1, 0])
    alone = [heat_maps(model, batch_nhwc[i : i + 1], [label])[0] for i, label in enumerate((0, 1, 0))]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert not np.allclose(together[2], heat_maps(model, batch_nhwc, [0, 1, 1])[2], atol=0.05)


def test_a_frozen_model_has_the_same_heat_maps(model: CarClassifier, batch_nhwc: np.ndarray) -> None:
    expected = heat_maps(model, batch_nhwc, [0, 1, 1])
    try:
        model.requires_grad_(False)
        np.testing.assert_array_equal(heat_maps(model, batch_nhwc, [0, 1, 1]), expected)
        assert not any(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.requires_grad_(True)


def test_gradients_are_kept_and_hooks_removed(model: CarClassifier, batch_nhwc: np.ndarray) -> None:
    weight = next(model.parameters())
    try:
        weight.grad = torch.full_like(weight, 3.0)
        heat_maps(model, batch_nhwc, [0, 1, 1])
        assert weight.grad is not None and bool((weight.grad == 3).all())
        assert all(p.grad is None for p in model.parameters() if p is not weight)
    finally:
        weight.grad = None
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not cam_layer(model)._forward_hooks


def test_hooks_are_removed_after_an_error(model: CarClassifier, batch_nhwc: np.ndarray) -> None:
    with pytest.raises(IndexError):
        heat_maps(model, batch_nhwc, [0, 1, 2])
    assert not cam_layer(model)._forward_hooks
    assert all(parameter.requires_grad for parameter in model.parameters())


def count(image_bgr: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(image_bgr.astype(int) - color).max(axis=2) <= 2).sum())


def answered(dataset: Dataset, wrong: int) -> Evaluation:
    """Return an evaluation in which the first `wrong` images have the other class as answer."""
    logits = np.eye(2, dtype=np.float32)[dataset.labels] * 3
    logits[:wrong] = logits[:wrong, ::-1]
    return evaluate_logits(logits, dataset, dataset.classes)


def test_the_sheet_frames_right_answers_green_and_wrong_ones_red(
    model: CarClassifier, dataset: Dataset, tmp_path: Path
) -> None:
    found = {}
    for wrong in (0, 4, 12):
        path = write_cam_grid(model, dataset, answered(dataset, wrong), tmp_path / f"{wrong}.png")
        assert path == tmp_path / f"{wrong}.png"
        sheet = cv2.imread(str(path))
        found[wrong] = (count(sheet, GREEN) > 1000, count(sheet, RED) > 1000)
    assert found == {0: (True, False), 4: (True, True), 12: (False, True)}


def test_the_same_evaluation_gives_the_same_sheet(model: CarClassifier, dataset: Dataset, tmp_path: Path) -> None:
    evaluation = evaluate(torch_predict(model), dataset, dataset.classes, SQUARE)
    for name in ("a.png", "b.png"):
        write_cam_grid(model, dataset, evaluation, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_transformer_gets_a_log_line_instead_of_a_sheet(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vit = CarClassifier("test_vit", 2, Preprocess(size_wh=(32, 32)))
    with caplog.at_level(logging.INFO, "twincar_edge.training"):
        assert write_cam_grid(vit, dataset, answered(dataset, 2), tmp_path / "grid.png") is None
    assert list(tmp_path.iterdir()) == []
    assert [record.getMessage() for record in caplog.records] == [
        "no grid.png: test_vit has no convolutional stage, which Grad-CAM needs: use `method='occlusion'`"
    ]


def with_confidences(labels: list[int], answers: list[int], confidences: list[float], classes: int) -> Evaluation:
    """Return an evaluation of these answers; `confidences` are the logits of the answers."""
    names = ClassMapping(tuple(f"Make{i} Car 2012" for i in range(classes)))
    samples = tuple(Sample(f"{i}.jpg", label, ImageFile(Path("none.jpg"))) for i, label in enumerate(labels))
    logits = np.eye(classes, dtype=np.float32)[answers] * np.array(confidences, np.float32)[:, None]
    return evaluate_logits(logits, Dataset("toys", names, samples), names)


def test_wrong_answers_are_sorted_by_confidence() -> None:
    evaluation = with_confidences([0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [3, 9, 5, 5, 1], classes=2)
    assert choose_wrong(evaluation) == [2, 3, 0, 4]
    assert choose_wrong(evaluation, 2) == [2, 3]


def test_right_answers_come_from_evenly_spaced_classes() -> None:
    labels = [label for label in range(9) for _ in range(2)]
    evaluation = with_confidences(labels, labels, [1 + number % 2 for number in range(18)], classes=9)
    assert choose_right(evaluation, 3) == [1, 9, 17]
    assert [labels[index] for index in choose_right(evaluation, 5)] == [0, 2, 4, 6, 8]


def test_with_few_classes_right_answers_rotate_over_classes() -> None:
    labels = [0, 0, 0, 0, 1, 1]
    evaluation = with_confidences(labels, labels, [1, 4, 3, 2, 1, 2], classes=2)
    assert choose_right(evaluation, 4) == [1, 2, 5, 4]
    assert len(choose_right(evaluation, 100)) == 6
