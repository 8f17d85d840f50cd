"""Small models, recipes and data sets for tests of training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess
from twincar_edge.training import objective
from twincar_edge.training.recipe import Augmentation, Recipe
from twincar_edge.training.run_folder import RunFolder

TINY = "test_resnet"
PLAIN = Augmentation(min_scale=1, stretch=1, flip=0, rotation_degrees=0, jitter=0, blur=0)


def toy_recipe(**changes: object) -> Recipe:
    """Return a recipe that learns the toy classes in seconds from random weights."""
    defaults: dict[str, object] = {
        "architecture": TINY,
        "preprocess": Preprocess(size_wh=(32, 32)),
        "weights": "none",
        "epochs": 5,
        "batch_size": 16,
        "learning_rate": 5e-3,
        "head_learning_rate": 5e-3,
        "label_smoothing": 0.0,
        "dropout": 0.0,
        "validation_share": 0.25,
        "augmentation": Augmentation(jitter=0.1),
    }
    return Recipe.model_validate(defaults | changes)


def corner_image(label: int, rng: np.random.Generator, size: int = 40, noise: int = 60) -> np.ndarray:
    """Return noise with a patch in the upper left quarter: blue for class 0, red for class 1, green for class 2."""
    image = rng.integers(0, noise, (size, size, 3), dtype=np.uint8)
    image[size // 16 : size // 3, size // 16 : size // 3, (0, 2, 1)[label]] += 150
    return image


def toy_dataset(folder: Path, per_class: int = 32, size: int = 40, seed: int = 7) -> Dataset:
    """Write a data set with two classes of `corner_image` in the CSV layout, and open it."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = ["filename,label"]
    for number in range(2 * per_class):
        assert cv2.imwrite(str(folder / "images" / f"{number:03d}.png"), corner_image(number % 2, rng, size))
        rows.append(f"{number:03d}.png,{number % 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "class_mapping.json").write_text(ClassMapping(("Blue Coupe 2010", "Red Coupe 2011")).to_json())
    return open_dataset(folder)


def diverging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of every training NaN, so that it fails in its first epoch."""

    def not_finite(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0) -> torch.Tensor:
        return logits.sum() * float("nan")

    monkeypatch.setattr(objective, "cross_entropy", not_finite)


def contents(run: RunFolder) -> dict[Path, bytes]:
    """Return all files of a run or a cross-validation, except `integrity.csv`."""
    files = [path for path in run.path.rglob("*") if path.is_file() and path != run.integrity]
    return {file.relative_to(run.path): file.read_bytes() for file in files}
