"""The minimum size of a crop for a full name follows from the answers to shrunken images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_model import CLASSES, tiny_model
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.export.crop_sizes import SIZES_PX, least_size, measure_crop_sizes
from twincar_edge.manifest import CropSizeFigures
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session

GREEN_BGR = (0, 200, 0)
RED_BGR = (0, 0, 255)


def figures(**right: float | None) -> list[CropSizeFigures]:
    return [CropSizeFigures(px=int(px[2:]), coverage=0.5, right=share) for px, share in right.items()]


@pytest.mark.parametrize(
    ("right", "least"),
    [
        ({"px224": 0.95, "px64": 0.93, "px32": 0.92}, 64),
        ({"px224": 0.95, "px64": 0.90, "px32": 0.95}, 224),  # right by chance below a size that is not right enough
        ({"px224": 0.95, "px64": 0.94, "px32": None}, 64),  # no image of this size is named
        ({"px224": 0.90, "px64": 0.95}, 224),
    ],
)
def test_the_minimum_size_is_the_last_within_the_tolerance(right: dict[str, float | None], least: int) -> None:
    assert least_size(figures(**right), 0.95) == least


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path = tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx", reject_below=0.6)
    return Classifier(open_session(path, ep="cpu", threads=1))


def green_pictures(path: Path, count: int) -> Dataset:
    """Return 100x130 pictures of one class, from a folder with two classes."""
    for name, color, images in ((CLASSES[0], RED_BGR, 1), (CLASSES[1], GREEN_BGR, count)):
        into = path / name
        into.mkdir(parents=True)
        for number in range(images):
            picture = np.full((100, 130, 3), color, np.uint8)
            picture[0, 0] = number  # makes all files different
            cv2.imwrite(str(into / f"{number}.png"), picture)
    dataset = open_dataset(path)
    return dataset.select(one.name for one in dataset.samples if dataset.classes[one.label] == CLASSES[1])


def test_images_are_answered_at_every_size(classifier: Classifier, tmp_path: Path) -> None:
    record = measure_crop_sizes(classifier, green_pictures(tmp_path, 100))
    assert record is not None
    assert (record.images, record.coverage, record.right, record.minimum_px) == (100, 1.0, 1.0, min(SIZES_PX))
    assert [size.px for size in record.sizes] == list(SIZES_PX)


def test_few_images_set_no_limit(classifier: Classifier, tmp_path: Path) -> None:
    assert measure_crop_sizes(classifier, green_pictures(tmp_path, 99)) is None
