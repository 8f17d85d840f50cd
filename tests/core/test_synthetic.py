"""The twin-car generator: twins differ in one part, boxes and masks are correct, clips and folders are complete."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from twincar_edge.errors import InputError
from twincar_edge.synthetic import (
    CLASS_NAMES,
    TWIN_PARTS,
    GatePass,
    GateTruth,
    draw_twin_car,
    gate_clip,
    twin_car_images,
    twin_of,
    write_gate_clip,
    write_image_folder,
)
from twincar_edge.synthetic import clip as clip_module

BODY_TYPES = "Sedan|Hatchback|Wagon|SUV|Coupe|Convertible|Minivan|Van|Cargo Van|Crew Cab|Regular Cab"
SMALL = (160, 120)
LABELS = range(len(CLASS_NAMES))


def seeded(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0


def test_class_names_are_unique_and_parse_into_invented_makes() -> None:
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) >= 12
    for name in CLASS_NAMES:
        assert re.fullmatch(rf"(Castor|Pollux) [A-Z][a-z]+ ({BODY_TYPES}) (19|20)\d\d", name), name


def test_every_class_has_one_twin_and_every_pair_one_part() -> None:
    assert len(TWIN_PARTS) * 2 == len(CLASS_NAMES)
    assert len(set(TWIN_PARTS)) == len(TWIN_PARTS)
    for label in LABELS:
        assert twin_of(label) // 2 == label // 2
        assert twin_of(twin_of(label)) == label != twin_of(label)


@pytest.mark.parametrize("label", [-1, len(CLASS_NAMES)])
def test_an_unknown_label_is_refused(label: int) -> None:
    for act in (twin_of, lambda bad: draw_twin_car(bad, seeded(0)), lambda bad: gate_clip([bad], 0)):
        with pytest.raises(ValueError, match="not a twin-car class"):
            act(label)


def test_a_picture_too_small_for_a_car_is_refused() -> None:
    with pytest.raises(ValueError, match="48"):
        draw_twin_car(0, seeded(0), (320, 40))


@pytest.mark.parametrize("label", [0, 7, 9, 12])
def test_the_same_seed_draws_the_same_picture(label: int) -> None:
    first, again, other = (draw_twin_car(label, seeded(seed, label), SMALL) for seed in (1, 1, 2))
    assert np.array_equal(first.image_bgr, again.image_bgr)
    assert np.array_equal(first.part_mask, again.part_mask)
    assert first.box_xyxy == again.box_xyxy
    assert not np.array_equal(first.image_bgr, other.image_bgr)


@pytest.mark.parametrize("pair", range(len(TWIN_PARTS)), ids=TWIN_PARTS)
def test_twins_of_one_seed_differ_only_in_the_marked_part(pair: int) -> None:
    for seed in range(2):
        one, two = (draw_twin_car(label, seeded(40, pair, seed)) for label in (2 * pair, 2 * pair + 1))
        assert np.array_equal(one.part_mask, two.part_mask)
        differs = np.abs(one.image_bgr.astype(np.int16) - two.image_bgr).max(axis=2)
        # Blur and JPEG's 16-pixel blocks spread the difference a little beyond the mask.
        elsewhere = differs[~grown(one.part_mask, 16)]
        assert elsewhere.mean() < 0.2
        assert np.mean(elsewhere > 24) < 1e-4
        assert differs[one.part_mask].mean() > 8


@pytest.mark.parametrize("pair", range(len(TWIN_PARTS)), ids=TWIN_PARTS)
def test_box_and_mask_are_inside_the_image_and_the_mask_is_small(pair: int) -> None:
    for seed in range(4):
        twins = [draw_twin_car(label, seeded(50, pair, seed), SMALL) for label in (2 * pair, 2 * pair + 1)]
        for label, picture in enumerate(twins, start=2 * pair):
            x0, y0, x1, y1 = picture.box_xyxy
            assert picture.image_bgr.shape == (SMALL[1], SMALL[0], 3) and picture.image_bgr.dtype == np.uint8
            assert picture.label == label and picture.part == TWIN_PARTS[pair]
            assert 0 < x0 < x1 < SMALL[0] and 0 < y0 < y1 < SMALL[1]
            assert (x1 - x0) * (y1 - y0) > 0.15 * SMALL[0] * SMALL[1]
            assert 0.003 < picture.part_mask.sum() / ((x1 - x0) * (y1 - y0)) < 0.12
        # A part that one twin lacks, such as a roof rail, may be outside that twin's box.
        boxes = np.array([picture.box_xyxy for picture in twins])
        ys, xs = np.nonzero(twins[0].part_mask)
        assert boxes[:, 0].min() - 2 <= xs.min() and xs.max() < boxes[:, 2].max() + 2
        assert boxes[:, 1].min() - 2 <= ys.min() and ys.max() < boxes[:, 3].max() + 2


def test_a_stream_is_balanced_and_its_pictures_do_not_depend_on_its_length() -> None:
    few = list(twin_car_images(3, seed=8, size_wh=SMALL))
    many = list(twin_car_images(len(CLASS_NAMES), seed=8, size_wh=SMALL))
    assert sorted(picture.label for picture in many) == list(LABELS)
    for one, two in zip(few, many, strict=False):
        assert np.array_equal(one.image_bgr, two.image_bgr)


def test_clip_boxes_contain_the_difference_from_the_empty_road() -> None:
    truth, frames = gate_clip([0, 9], seed=5, size_wh=(320, 180), fps=10, seconds_per_pass=1.6, gap_seconds=0.5)
    pictures = list(frames)
    assert len(pictures) == truth.frames
    empty = np.median(np.stack(pictures[:10]), axis=0)
    first, second = truth.passes
    assert first.first_frame >= 10 and second.first_frame > first.last_frame
    for one in truth.passes:
        assert len(one.boxes_xyxy) == one.last_frame - one.first_frame + 1
        middles = [(box[0] + box[2]) / 2 for box in one.boxes_xyxy]
        assert np.sign(middles[-1] - middles[0]) == one.direction
        middle = len(one.boxes_xyxy) // 2
        x0, y0, x1, y1 = one.boxes_xyxy[middle]
        changed = np.abs(pictures[one.first_frame + middle] - empty).max(axis=2) > 40
        assert changed[y0:y1, x0:x1].mean() > 0.35
        # Only the shadow may be outside the box: beside and below the car, never above it.
        assert not changed[: max(0, y0 - 2)].any()
    for index in (0, first.last_frame + 3, truth.frames - 1):
        assert np.mean(np.abs(pictures[index] - empty).max(axis=2) > 40) < 0.002


def test_cars_that_show_their_front_grow_and_those_that_show_their_tail_shrink() -> None:
    headlights, tail_lights = (2 * TWIN_PARTS.index(part) for part in ("headlights", "tail lights"))
    for seed in range(2):
        truth, _ = gate_clip([headlights, tail_lights], seed, size_wh=(320, 180), fps=10)
        for one, sign in zip(truth.passes, (1, -1), strict=True):
            inner = [box for box in one.boxes_xyxy if box[0] > 0 and box[2] < 320 and box[3] < 180]
            assert np.sign((inner[-1][2] - inner[-1][0]) - (inner[0][2] - inner[0][0])) == sign


def test_invalid_clip_settings_are_refused() -> None:
    usual: dict[str, Any] = {"labels": [0], "seed": 1}
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"labels": []}, "at least one car"),
        ({"fps": 0}, "fps"),
        ({"seconds_per_pass": -1}, "seconds_per_pass"),
        ({"gap_seconds": -0.1}, "gap_seconds"),
        ({"size_wh": (64, 36)}, "160 x 96"),
    )
    for change, text in changes:
        with pytest.raises(ValueError, match=text):
            gate_clip(**(usual | change))


def sample_truth() -> GateTruth:
    passes = (GatePass(3, 1, 2, -1, ((0, 0, 10, 10), (5, 5, 20, 20))),)
    return GateTruth(25.0, (64, 48), 5, passes)


def test_truth_round_trips_through_json() -> None:
    assert GateTruth.from_json(sample_truth().to_json()) == sample_truth()
    table = json.loads(sample_truth().to_json())
    assert table["classes"] == list(CLASS_NAMES)
    assert table["passes"][0]["name"] == CLASS_NAMES[3]


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("fps",), 0, "fps should be a positive number"),
        (("fps",), True, "'fps' should be a number"),
        (("size_wh",), [64], "2 integers"),
        (("frames",), None, "an integer"),
        (("classes",), ["Castor"], "class names"),
        (("passes",), {}, "should be a list"),
        (("passes", 0), 7, "should be an object"),
        (("passes", 0, "label"), 99, "label should be 0 to"),
        (("passes", 0, "name"), "Another Name", "name should be"),
        (("passes", 0, "direction"), 0, "-1 or 1"),
        (("passes", 0, "last_frame"), 9, "0 <= first <= last < 5"),
        (("passes", 0, "boxes_xyxy"), [[0, 0, 1, 1]], "2 boxes, one per frame, found 1"),
        (("passes", 0, "boxes_xyxy", 1), [0, 0, 65, 1], "inside 64 x 48"),
        (("passes", 0, "boxes_xyxy", 1), [0, 0, 1.5, 1], "4 integers"),
    ],
)
def test_malformed_truth_is_refused_and_its_field_named(
    path: tuple[str | int, ...], value: object, complaint: str
) -> None:
    table = json.loads(sample_truth().to_json())
    inner = table
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match=re.escape(complaint)):
        GateTruth.from_json(json.dumps(table))


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_text_that_is_not_a_truth_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="gate truth"):
        GateTruth.from_json(text)


def test_a_written_clip_can_be_read_back_with_its_truth(tmp_path: Path) -> None:
    path = tmp_path / "gate.mp4"
    truth = write_gate_clip(path, [2], seed=1, size_wh=(320, 180), fps=10, seconds_per_pass=1.0, gap_seconds=0.2)
    assert GateTruth.from_json(path.with_suffix(".json").read_text(encoding="utf-8")) == truth
    video = cv2.VideoCapture(str(path))
    count = 0
    while video.read()[0]:
        count += 1
    video.release()
    assert count == truth.frames
    assert sorted(item.name for item in tmp_path.iterdir()) == ["gate.json", "gate.mp4"]


def test_a_failure_while_drawing_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("drawing failed")

    monkeypatch.setattr(clip_module, "_draw_at", fails)
    with pytest.raises(RuntimeError, match="drawing failed"):
        write_gate_clip(tmp_path / "gate.mp4", [0], seed=1, size_wh=(320, 180), fps=10)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.mp4"):
        write_gate_clip(tmp_path / "gate.avi", [0], seed=1)
    with pytest.raises(ValueError, match="even"):
        write_gate_clip(tmp_path / "gate.mp4", [0], seed=1, size_wh=(321, 180))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_gate_clip(tmp_path / "file" / "gate.mp4", [0], seed=1, size_wh=(320, 180), fps=10)


def test_a_written_folder_can_be_read_back(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "cars", per_class=1, seed=3, size_wh=SMALL)
    mapping = json.loads((folder / "class_mapping.json").read_text(encoding="utf-8"))
    assert mapping == {str(label): name for label, name in enumerate(CLASS_NAMES)}
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [f"{k:06d}.jpg" for k in range(1, len(CLASS_NAMES) + 1)]
    assert sorted(int(row["label"]) for row in rows) == list(LABELS)
    for row in rows:
        image = cv2.imread(str(folder / "images" / row["filename"]))
        assert image is not None and min(image.shape[:2]) > 30
    assert len(list((folder / "images").iterdir())) == len(rows)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="per_class"):
        write_image_folder(tmp_path / "cars", per_class=0, seed=3)
    assert not (tmp_path / "cars").exists()
