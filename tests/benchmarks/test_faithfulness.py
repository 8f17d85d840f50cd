"""Faithfulness: a heat map of what an answer depends on scores well, and any other map scores like chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_model import CLASSES, tiny_model
from twincar_edge.benchmarks.faithfulness.measure import DatasetPictures, Picture, measure_faithfulness
from twincar_edge.benchmarks.faithfulness.scores import STEPS, area, blurred, curves, pointing
from twincar_edge.bundled import demo_model
from twincar_edge.cli import main
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.synthetic import write_image_folder

SIDE = 32


def spotted() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a gray picture with a white spot, and a heat map of the spot."""
    image, heat = np.full((SIDE, SIDE, 3), 100, np.uint8), np.zeros((SIDE, SIDE), np.float32)
    image[4:10, 4:10], heat[4:10, 4:10] = 255, 1
    return image, heat


def whiteness(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A model whose probability is the share of white pixels in the spot."""
    return (batch_nhwc[:, 4:10, 4:10, 0] > 250).mean(axis=(1, 2))


def test_the_probability_falls_early_for_a_right_map_and_late_for_a_wrong_one() -> None:
    image, heat = spotted()
    right, wrong = curves(image, heat, whiteness), curves(image, -heat, whiteness)
    for found in (right, wrong):
        assert found.deletion.shape == found.insertion.shape == (STEPS + 1,)
        assert found.deletion[0] == found.insertion[-1] == 1  # the picture itself
        assert found.deletion[-1] == found.insertion[0] < 0.6  # the blurred picture
    assert area(right.deletion) < 0.2 < 0.8 < area(wrong.deletion)
    assert area(right.insertion) > 0.8 > 0.2 > area(wrong.insertion)
    assert blurred(image).max() < 250 < image.max()


def test_pixels_of_equal_heat_are_in_random_order() -> None:
    image, _ = spotted()
    flat = curves(image, np.zeros((SIDE, SIDE), np.float32), whiteness)
    assert 0.3 < area(flat.deletion) < 0.7
    np.testing.assert_array_equal(flat.deletion, curves(image, np.ones((SIDE, SIDE), np.float32), whiteness).deletion)


def test_the_pointing_game_counts_the_hottest_pixel_and_the_heat_in_the_part() -> None:
    _, heat = spotted()
    part = heat > 0
    assert pointing(heat, part) == (True, True, 1.0)
    assert pointing(np.roll(heat, 6, axis=1), part) == (False, True, 0.0)
    assert pointing(np.roll(heat, 16, axis=1), part) == (False, False, 0.0)
    assert pointing(np.where(part, 1, -1).astype(np.float32), part).heat == 1  # negative heat does not count


def test_a_file_without_feature_map_or_embedding_is_measured_by_occlusion(tmp_path: Path) -> None:
    session = open_session(tiny_model(tmp_path / "tiny.onnx"), ep="cpu")
    image = np.full((SIDE, SIDE, 3), (90, 90, 110), np.uint8)
    image[4:12, 4:12] = (0, 0, 255)
    report = measure_faithfulness(session, [Picture(image, CLASSES[0])])
    assert [row.method for row in report.rows] == ["occlusion", "occlusion, contrast", "random"]
    assert (report.named_right, report.part, report.rows[0].on_the_part) == (1, None, None)
    random = report.rows[-1]
    assert (random.deletion_gain.mean, random.deletion_gain.shown) == (0, False)


def test_a_class_in_another_spelling_counts_as_named(tmp_path: Path) -> None:
    session = open_session(tiny_model(tmp_path / "tiny.onnx"), ep="cpu")
    image = np.full((SIDE, SIDE, 3), (0, 0, 255), np.uint8)
    names = (CLASSES[0], CLASSES[0].replace(" ", "_"), CLASSES[1], None)
    report = measure_faithfulness(session, [Picture(image, name) for name in names])
    assert (report.images, report.labeled, report.named_right) == (4, 3, 2)


def test_pictures_are_spread_over_the_data_set(tmp_path: Path) -> None:
    dataset = OpenOptions(write_image_folder(tmp_path / "twins", per_class=1, seed=1, size_wh=(96, 72))).open()
    pictures = DatasetPictures(dataset, 4)
    assert [picture.name for picture in pictures] == [dataset.classes[label] for label in (0, 4, 8, 12)]
    assert len(DatasetPictures(dataset, 1000)) == len(dataset)


def test_evaluate_writes_json_markdown_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_image_folder(tmp_path / "twins", per_class=1, seed=1)
    arguments = ["evaluate", str(demo_model()), "--data", str(data), "--explain", "--explain-images", "2"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--reference", str(demo_model()), "-o", str(tmp_path / "out")])
    assert caught.value.code == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert (report["images"], report["part"]) == (2, None)
    assert report["reference_correlation"] == pytest.approx(1)
    assert [row["method"] for row in report["rows"]] == [
        "grad-cam++",
        "grad-cam",
        "grad-cam, contrast",
        "grad-cam++, random last layer",
        "occlusion",
        "occlusion, contrast",
        "occlusion, random last layer",
        "random",
    ]
    assert "gain over random" in (tmp_path / "out" / "explanations.md").read_text()
    assert (tmp_path / "out" / "explanations.png").stat().st_size > 10_000
    assert "# Explanations: twins.onnx" in capsys.readouterr().out


def test_a_reference_of_other_classes_is_refused(tmp_path: Path) -> None:
    session = open_session(tiny_model(tmp_path / "tiny.onnx"), ep="cpu")
    other = open_session(tiny_model(tmp_path / "other.onnx", (*CLASSES[:2], "Pollux White SUV 2021")), ep="cpu")
    with pytest.raises(InputError, match="its classes or its input differ"):
        measure_faithfulness(session, [Picture(np.zeros((8, 8, 3), np.uint8), CLASSES[0])], other)
