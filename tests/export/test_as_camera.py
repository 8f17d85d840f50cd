"""`evaluate --as-camera` measures how much accuracy a model loses on pictures as a camera gives them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_model import CLASSES, tiny_model
from twincar_edge.cli import main
from twincar_edge.datasets import Dataset, ImageFile, Sample
from twincar_edge.export.as_camera.conditions import CAMERA_CONDITIONS, seen_by_camera
from twincar_edge.export.as_camera.measure import measure_as_camera
from twincar_edge.export.as_camera.report import CameraReport
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess

PREPROCESS = Preprocess(size_wh=(100, 100))
RED, BLUE = (0, 0, 255), (255, 0, 0)


@pytest.fixture
def ramp_bgr() -> np.ndarray:
    """A 200x150 image that gets bluer from left to right and greener from top to bottom."""
    image_bgr = np.zeros((150, 200, 3), np.uint8)
    image_bgr[..., 0] = np.arange(200)
    image_bgr[..., 1] = np.arange(150)[:, None]
    return image_bgr


def apply_condition(
    name: str, image_bgr: np.ndarray, path: Path, box_xyxy: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    (condition,) = (condition for condition in CAMERA_CONDITIONS if condition.name == name)
    assert cv2.imwrite(str(path), image_bgr)
    dataset = Dataset("one", ClassMapping(("a car",)), (Sample("one", 0, ImageFile(path), box_xyxy),))
    return seen_by_camera(dataset, condition, PREPROCESS).samples[0].read()


def test_sizes_reduce_the_shorter_side(ramp_bgr: np.ndarray, tmp_path: Path) -> None:
    assert apply_condition("112 px", ramp_bgr, tmp_path / "a.png").shape == (112, 149, 3)
    assert (apply_condition("224 px", ramp_bgr, tmp_path / "a.png") == ramp_bgr).all()


def test_a_tight_box_cuts_a_tenth_off_each_side(ramp_bgr: np.ndarray, tmp_path: Path) -> None:
    name = "box 10% too tight"
    assert (apply_condition(name, ramp_bgr, tmp_path / "a.png") == ramp_bgr[15:135, 20:180]).all()
    assert (apply_condition(name, ramp_bgr, tmp_path / "a.png", (50, 50, 150, 100)) == ramp_bgr[55:95, 60:140]).all()


def test_a_shifted_box_shows_its_surroundings_and_repeats_the_image_border(
    ramp_bgr: np.ndarray, tmp_path: Path
) -> None:
    name = "box shifted by 10%"
    inside = apply_condition(name, ramp_bgr, tmp_path / "a.png", (50, 50, 150, 100))
    across, down = inside[0, 0, 0] - 50.0, inside[0, 0, 1] - 50.0
    assert (abs(across), abs(down)) == (10, 5)
    assert inside.shape == (50, 100, 3)
    cut = apply_condition(name, ramp_bgr, tmp_path / "a.png")
    columns = np.clip(np.arange(200) + int(2 * across), 0, 199)  # twice as wide, with the same random numbers
    rows = np.clip(np.arange(150) + int(3 * down), 0, 149)
    assert (cut == ramp_bgr[np.ix_(rows, columns)]).all()
    beyond = apply_condition(
        name, ramp_bgr, tmp_path / "a.png", (-30, -30, 400, 400)
    )  # the box is clipped to the picture
    assert (beyond == cut).all()


@pytest.mark.parametrize("pixels", [5, 11])
def test_motion_blurs_along_rows_in_pixels_of_the_model_input(pixels: int, tmp_path: Path) -> None:
    image_bgr = np.zeros((200, 400, 3), np.uint8)
    image_bgr[:, 200:] = 255
    seen = apply_condition(f"motion blur of {pixels} px", image_bgr, tmp_path / "a.png")
    assert seen.shape == (100, 100, 3)
    assert (seen == seen[:1]).all()  # nothing moves up or down
    between = np.flatnonzero((seen[0, :, 0] > 0) & (seen[0, :, 0] < 255))
    assert len(between) == pixels - 1
    light = (seen[0, between, 0] / 255.0) ** 2.2
    assert light == pytest.approx(np.arange(1, pixels) / pixels, abs=0.02)


def test_compression_adds_artifacts_at_the_input_size(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    seen = apply_condition("JPEG quality 30", noise, tmp_path / "a.png")
    assert seen.shape == noise.shape
    error = np.abs(seen.astype(int) - noise).mean()
    assert error > 10
    assert (
        apply_condition("JPEG quality 30", np.repeat(np.repeat(noise, 3, 0), 3, 1), tmp_path / "b.png").shape
        == noise.shape
    )


def test_a_third_of_the_light_scales_linear_light_and_adds_noise(tmp_path: Path) -> None:
    seen = apply_condition("a third of the light", np.full((100, 100, 3), 200, np.uint8), tmp_path / "a.png")
    light = (seen / 255.0) ** 2.2
    assert light.mean() == pytest.approx((200 / 255) ** 2.2 / 3, rel=0.02)
    assert light.std() > 0.005


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2)])
def test_conditions_accept_the_smallest_pictures(size: tuple[int, int], tmp_path: Path) -> None:
    for condition in CAMERA_CONDITIONS:
        assert apply_condition(condition.name, np.full((*size, 3), 90, np.uint8), tmp_path / "a.png").size > 0


@pytest.fixture
def known(tmp_path: Path) -> Path:
    folder = tmp_path / "known"
    (folder / "images").mkdir(parents=True)
    for number, color in enumerate((RED, BLUE, BLUE)):
        image = np.full((60, 80, 3), color, np.uint8)
        image[0, 0] = number
        assert cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    (folder / "labels.csv").write_text("filename,label\n0.png,0\n1.png,2\n2.png,0\n")
    (folder / "class_mapping.json").write_text(ClassMapping(CLASSES).to_json())
    return folder


def test_the_command_writes_table_json_and_picture(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tiny_model(tmp_path / "tiny.onnx"), tmp_path / "out"
    arguments = ["evaluate", str(model), "--data", str(known), "--as-camera", "--threads", "1", "-o", str(out)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json", str(tmp_path / "all.json")])
    assert ended.value.code == 0
    report = CameraReport.model_validate_json((out / "as_camera.json").read_text())
    assert json.loads((tmp_path / "all.json").read_text())["as_camera"] == json.loads(report.to_json())
    assert (report.images, report.top1, report.top5) == (3, pytest.approx(2 / 3), 1)
    assert [found.name for found in report.conditions] == [condition.name for condition in CAMERA_CONDITIONS]
    assert all(found.top1_change == 0 for found in report.conditions)  # the color does not change
    printed = capsys.readouterr().out
    assert report.to_markdown() in printed and "| 48 px | 66.67% | +0.00 (" in printed
    assert (out / "as_camera.md").read_text() == report.to_markdown()
    assert (out / "as_camera.png").stat().st_size > 10_000


def test_accuracy_changes_are_paired_over_all_images(tmp_path: Path) -> None:
    """A model that recognizes only sharp edges fails on every blurred picture, and on none at full size."""
    image_bgr = np.zeros((100, 100, 3), np.uint8)
    image_bgr[:, ::2] = 255
    assert cv2.imwrite(str(tmp_path / "a.png"), image_bgr)
    sample = Sample("0", 0, ImageFile(tmp_path / "a.png"))
    dataset = Dataset("many", ClassMapping(CLASSES), tuple(replace(sample, name=f"{n}") for n in range(100)))
    calls: list[tuple[int, int]] = []

    def predict(batch_nhwc: np.ndarray) -> np.ndarray:
        sharp = batch_nhwc.std(axis=(1, 2, 3)) > 100
        return np.stack([sharp, ~sharp, np.zeros_like(sharp)], axis=1).astype(np.float32)

    report = measure_as_camera(
        "edges", predict, dataset, dataset.classes, PREPROCESS, progress=lambda *counts: calls.append(counts)
    )
    figures = {found.name: found for found in report.conditions}
    blurred, same = figures["motion blur of 11 px"], figures["224 px"]
    assert (report.top1, blurred.top1, blurred.top1_change, same.top1_change) == (1, 0, -1, 0)
    assert blurred.top1_interval[0] == -1 and -1 < blurred.top1_interval[1] < -0.9
    assert same.top1_interval[0] == -same.top1_interval[1] and same.top1_interval[1] < 0.04
    assert calls[-1] == (100 * 13, 100 * 13) and calls == sorted(calls)


def test_as_camera_without_labeled_images_is_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "lanes").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(model), "--unknown", str(tmp_path / "lanes"), "--as-camera"])
    assert ended.value.code == 2
    assert "--as-camera needs labeled images" in capsys.readouterr().err
