"""`evaluate --as-camera` shows a model the pictures that a camera would give, and counts what that costs."""

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
    """Brighter from left to right in blue, and from top to bottom in green; 200 wide and 150 high."""
    image_bgr = np.zeros((150, 200, 3), np.uint8)
    image_bgr[..., 0] = np.arange(200)
    image_bgr[..., 1] = np.arange(150)[:, None]
    return image_bgr


def under(
    name: str, image_bgr: np.ndarray, path: Path, box_xyxy: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    (condition,) = (condition for condition in CAMERA_CONDITIONS if condition.name == name)
    assert cv2.imwrite(str(path), image_bgr)
    dataset = Dataset("one", ClassMapping(("a car",)), (Sample("one", 0, ImageFile(path), box_xyxy),))
    return seen_by_camera(dataset, condition, PREPROCESS).samples[0].read()


def test_sizes_reduce_the_shorter_side(ramp_bgr: np.ndarray, tmp_path: Path) -> None:
    assert under("112 px", ramp_bgr, tmp_path / "a.png").shape == (112, 149, 3)
    assert (under("224 px", ramp_bgr, tmp_path / "a.png") == ramp_bgr).all()


def test_a_tight_box_lacks_a_tenth_on_each_side(ramp_bgr: np.ndarray, tmp_path: Path) -> None:
    name = "box 10% too tight"
    assert (under(name, ramp_bgr, tmp_path / "a.png") == ramp_bgr[15:135, 20:180]).all()
    assert (under(name, ramp_bgr, tmp_path / "a.png", (50, 50, 150, 100)) == ramp_bgr[55:95, 60:140]).all()


def test_a_shifted_box_shows_what_lies_there_and_repeats_its_border(ramp_bgr: np.ndarray, tmp_path: Path) -> None:
    name = "box shifted by 10%"
    inside = under(name, ramp_bgr, tmp_path / "a.png", (50, 50, 150, 100))
    across, down = inside[0, 0, 0] - 50.0, inside[0, 0, 1] - 50.0
    assert (abs(across), abs(down)) == (10, 5)
    assert inside.shape == (50, 100, 3)
    cut = under(name, ramp_bgr, tmp_path / "a.png")
    columns = np.clip(np.arange(200) + int(2 * across), 0, 199)  # twice as wide, and the same random numbers
    rows = np.clip(np.arange(150) + int(3 * down), 0, 149)
    assert (cut == ramp_bgr[np.ix_(rows, columns)]).all()
    beyond = under(name, ramp_bgr, tmp_path / "a.png", (-30, -30, 400, 400))  # a box as wide as the picture, at most
    assert (beyond == cut).all()


@pytest.mark.parametrize("pixels", [5, 11])
def test_motion_smears_along_the_rows_in_pixels_of_the_models_input(pixels: int, tmp_path: Path) -> None:
    image_bgr = np.zeros((200, 400, 3), np.uint8)
    image_bgr[:, 200:] = 255
    seen = under(f"motion blur of {pixels} px", image_bgr, tmp_path / "a.png")
    assert seen.shape == (100, 100, 3)
    assert (seen == seen[:1]).all()  # nothing moves up or down
    between = np.flatnonzero((seen[0, :, 0] > 0) & (seen[0, :, 0] < 255))
    assert len(between) == pixels - 1
    light = (seen[0, between, 0] / 255.0) ** 2.2
    assert light == pytest.approx(np.arange(1, pixels) / pixels, abs=0.02)


def test_compression_leaves_blocks_at_the_models_size(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    seen = under("JPEG quality 30", noise, tmp_path / "a.png")
    assert seen.shape == noise.shape
    error = np.abs(seen.astype(int) - noise).mean()
    assert error > 10
    assert under("JPEG quality 30", np.repeat(np.repeat(noise, 3, 0), 3, 1), tmp_path / "b.png").shape == noise.shape


def test_a_third_of_the_light_is_a_third_in_linear_light_and_noisy(tmp_path: Path) -> None:
    seen = under("a third of the light", np.full((100, 100, 3), 200, np.uint8), tmp_path / "a.png")
    light = (seen / 255.0) ** 2.2
    assert light.mean() == pytest.approx((200 / 255) ** 2.2 / 3, rel=0.02)
    assert light.std() > 0.005


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2)])
def test_the_smallest_pictures_are_taken(size: tuple[int, int], tmp_path: Path) -> None:
    for condition in CAMERA_CONDITIONS:
        assert under(condition.name, np.full((*size, 3), 90, np.uint8), tmp_path / "a.png").size > 0


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
    assert all(found.top1_change == 0 for found in report.conditions)  # the color stays what it is
    said = capsys.readouterr().out
    assert report.to_markdown() in said and "| 48 px | 66.67% | +0.00 (" in said
    assert (out / "as_camera.md").read_text() == report.to_markdown()
    assert (out / "as_camera.png").stat().st_size > 10_000


def test_changes_are_paired_over_all_images_of_a_data_set(tmp_path: Path) -> None:
    """A model that is right of sharp edges alone loses every picture under blur, and none by a tight box."""
    image_bgr = np.zeros((100, 100, 3), np.uint8)
    image_bgr[:, ::2] = 255
    assert cv2.imwrite(str(tmp_path / "a.png"), image_bgr)
    sample = Sample("0", 0, ImageFile(tmp_path / "a.png"))
    dataset = Dataset("many", ClassMapping(CLASSES), tuple(replace(sample, name=f"{n}") for n in range(100)))
    told: list[tuple[int, int]] = []

    def predict(batch_nhwc: np.ndarray) -> np.ndarray:
        sharp = batch_nhwc.std(axis=(1, 2, 3)) > 100
        return np.stack([sharp, ~sharp, np.zeros_like(sharp)], axis=1).astype(np.float32)

    report = measure_as_camera(
        "edges", predict, dataset, dataset.classes, PREPROCESS, progress=lambda *now: told.append(now)
    )
    figures = {found.name: found for found in report.conditions}
    blurred, same = figures["motion blur of 11 px"], figures["224 px"]
    assert (report.top1, blurred.top1, blurred.top1_change, same.top1_change) == (1, 0, -1, 0)
    assert blurred.top1_interval[0] == -1 and -1 < blurred.top1_interval[1] < -0.9
    assert same.top1_interval[0] == -same.top1_interval[1] and same.top1_interval[1] < 0.04
    assert told[-1] == (100 * 13, 100 * 13) and told == sorted(told)


def test_without_labeled_images_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "lanes").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(model), "--unknown", str(tmp_path / "lanes"), "--as-camera"])
    assert ended.value.code == 2
    assert "--as-camera needs labeled images" in capsys.readouterr().err
