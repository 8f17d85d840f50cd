"""Fixtures that every room's tests use."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from twincar_edge.labels import ClassMapping

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real input beside the checkout; a test that asks for it is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "cars196").is_dir():
        pytest.skip("no real input: ../shared is not beside the checkout")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator that starts the same in every test."""
    return np.random.default_rng(2012)


def draw_blob(label: int, rng: np.random.Generator, size_wh: tuple[int, int] = (48, 32)) -> np.ndarray:
    """A tiny image whose hue tells its label, with noise, so that no two are the same bytes."""
    width, height = size_wh
    image = np.full((height, width, 3), 60, np.uint8)
    image[height // 4 : -height // 4, width // 4 : -width // 4] = np.roll([220, 40, 40], label % 3) // (1 + label // 3)
    noise = rng.integers(0, 24, image.shape, dtype=np.uint8)
    return image + noise


@pytest.fixture
def labelled_folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A data set in the CSV layout: 3 classes, 6 JPEGs each, images/, labels.csv and class_mapping.json."""
    folder = tmp_path / "blobs"
    (folder / "images").mkdir(parents=True)
    rows = ["filename,label"]
    for number in range(18):
        label = number % 3
        name = f"{number:03d}.jpg"
        assert cv2.imwrite(str(folder / "images" / name), draw_blob(label, rng))
        rows.append(f"{name},{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    classes = ClassMapping(("Alpha One Sedan 2010", "Alpha Two Sedan 2010", "Beta SUV 2011"))
    (folder / "class_mapping.json").write_text(classes.to_json())
    return folder
