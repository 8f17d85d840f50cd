"""The folder in which the examples of docstrings and docs/python.md run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import write_video
from tests.support.training_toys import toy_dataset
from twincar_edge.bundled import demo_clip
from twincar_edge.synthetic import draw_twin_car, twin_car_images

RECIPE = """
architecture = "test_resnet"
size = 32
weights = "none"
epochs = 1
batch_size = 16
validation_share = 0.25
"""
CLIP_FRAMES = 150  # covers the first vehicle of the demo clip


@pytest.fixture(scope="package")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labeled images, a recipe, two crops, a street scene and two clips."""
    folder = tmp_path_factory.mktemp("workspace")
    toy_dataset(folder / "cars")
    (folder / "tiny.toml").write_text(RECIPE)
    drawn = list(twin_car_images(12, 0, (520, 400)))
    for name, one in (("crop", drawn[0]), ("other", drawn[10])):
        left, top, right, bottom = one.box_xyxy
        assert cv2.imwrite(str(folder / f"{name}.jpg"), one.image_bgr[top:bottom, left:right])
    (folder / "rigel").mkdir()
    (folder / "drawn").mkdir()
    (folder / "drawn" / "Rigel Nova Sedan 2024").symlink_to("../rigel")
    for number in range(4):  # a car unknown to every model of these tests
        drawn_car = draw_twin_car(5, np.random.default_rng(number), (640, 480))
        left, top, right, bottom = drawn_car.box_xyxy
        assert cv2.imwrite(str(folder / "rigel" / f"{number}.png"), drawn_car.image_bgr[top:bottom, left:right])
    assert cv2.imwrite(str(folder / "street.jpg"), drawn[0].image_bgr)
    capture = cv2.VideoCapture(str(demo_clip()))
    frames = [frame for done, frame in islice(iter(capture.read, None), CLIP_FRAMES) if done]
    capture.release()
    write_video(folder / "gate.mp4", frames)
    (folder / "yard.mp4").symlink_to("gate.mp4")
    return folder
