from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from tests import REPOSITORY
from tests.support.clips import Image
from tests.support.detector_toys import CAR, PHONE, TRUCK, expected_box, picture, red_detector
from tests.support.tiny_model import tiny_model
from twincar_edge.errors import InputError, ModelError
from twincar_edge.runtime.locating.boxes import Box, iou
from twincar_edge.runtime.locating.detector import VEHICLES, Detector, open_detector
from twincar_edge.runtime.locating.locate import LocateOptions, Locator, make_locator
from twincar_edge.runtime.locating.zones import parse_zone
from twincar_edge.runtime.sources import Frame


def opened(path: Path) -> Detector:
    return open_detector(path, ep="cpu", threads=1)


# --- pictures ---


@pytest.mark.parametrize("size_wh", [(128, 96), (96, 128), (512, 256), (64, 64), (32, 32)])
def test_boxes_are_in_pixels_of_the_picture_at_any_size(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    detector = opened(red_detector(tmp_path / "d.onnx"))
    image = picture((2, 1), size_wh=size_wh)
    (found,) = detector.detect(image, detector.class_ids(VEHICLES), 0.3)
    assert np.abs(np.array(found.box_xyxy) - expected_box(2, 1, size_wh)).max() <= 1
    assert 0.5 < found.score <= 0.9


def test_a_box_ends_at_the_border_of_the_picture(tmp_path: Path) -> None:
    detector = opened(red_detector(tmp_path / "d.onnx"))
    boxes = [found.box_xyxy for found in detector.detect(picture((0, 0), (7, 5)), (CAR,), 0.3)]
    assert sorted(boxes) == sorted([expected_box(0, 0), expected_box(7, 5)])


def test_only_the_configured_classes_are_detected(tmp_path: Path) -> None:
    detector = opened(red_detector(tmp_path / "d.onnx", left=((CAR, 0.9),), right=((PHONE, 0.8), (TRUCK, 0.1))))
    image = picture((1, 1), (6, 3))

    def found(*wanted: str) -> list[Box]:
        return sorted(one.box_xyxy for one in detector.detect(image, detector.class_ids(wanted), 0.3))

    assert found(*VEHICLES) == [expected_box(1, 1)]
    assert found("cell phone") == found("67") == [expected_box(6, 3)]
    assert found("any") == found("car", "cell phone") == sorted([expected_box(1, 1), expected_box(6, 3)])


def test_a_box_with_two_classes_is_one_vehicle_of_the_more_probable_type(tmp_path: Path) -> None:
    detector = opened(red_detector(tmp_path / "d.onnx", left=((CAR, 0.5), (TRUCK, 0.9))))
    (found,) = detector.detect(picture((1, 1)), detector.class_ids(VEHICLES), 0.3)
    assert found.score == pytest.approx(0.9, abs=0.01)
    assert found.kind == "truck"


def test_objects_outside_the_vehicle_classes_of_coco_have_no_vehicle_type(tmp_path: Path) -> None:
    detector = opened(red_detector(tmp_path / "d.onnx", left=((CAR, 0.9),), right=((PHONE, 0.9),)))
    image = picture((1, 1), (6, 3))
    kinds = {found.box_xyxy: found.kind for found in detector.detect(image, detector.class_ids(("any",)), 0.3)}
    assert kinds == {expected_box(1, 1): "car", expected_box(6, 3): None}


def test_of_overlapping_boxes_the_one_with_the_highest_score_is_kept(tmp_path: Path) -> None:
    detector = opened(red_detector(tmp_path / "d.onnx"))
    image = picture((2, 2))
    image[32:48, 48:64] = (0, 0, 200)  # the next cell, less red
    (found,) = detector.detect(image, (CAR,), 0.3)
    assert found.box_xyxy == expected_box(2, 2)


def test_an_empty_picture_has_no_detections(tmp_path: Path) -> None:
    assert opened(red_detector(tmp_path / "d.onnx")).detect(picture(), (CAR,), 0.1) == []


# --- classes ---


def test_classes_of_a_detector_without_coco_names_are_numbers(tmp_path: Path) -> None:
    detector = opened(red_detector(tmp_path / "d.onnx", ((1, 0.9),), ((0, 0.9),), classes=3))
    assert detector.classes == ("0", "1", "2")
    assert detector.class_ids(("1", "2", "1")) == (1, 2)
    with pytest.raises(InputError, match="numbers 0 to 2, and no names"):
        detector.class_ids(VEHICLES)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("cra", "did you mean .*'car'"), ("80", "0 to 79"), ("", "no class ''"), ("-1", "no class"), ("²", "no class")],
)
def test_an_unknown_class_is_a_one_line_error(tmp_path: Path, wanted: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        opened(red_detector(tmp_path / "d.onnx")).class_ids(("car", wanted))
    assert "\n" not in str(caught.value)


# --- files that are not detectors ---


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"kind": TensorProto.UINT8}, r"its input is tensor\(uint8\)"),
        ({"side": "size"}, r"its input is tensor\(float\) \[1, 3, 'size', 'size'\]"),
        ({"side": 72}, "multiples of 32"),
        ({"side": 4096}, "sides of 32 to 2048"),
        ({"cells": 100}, r"returns float32 \[1, 100, 85\], expected float32 \[1, 84, 5 \+ classes\]"),
        ({"classes": 0, "left": (), "right": ()}, r"returns float32 \[1, 84, 5\]"),
        ({"boxes": 100.0}, "already decoded"),
        ({"boxes": float("nan")}, "not finite"),
        ({"boost": 9.0}, "scores outside 0 to 1"),
    ],
)
def test_a_file_of_another_layout_is_refused_in_one_line(
    tmp_path: Path, spoilt: dict[str, object], message: str
) -> None:
    path = red_detector(tmp_path / "d.onnx", **spoilt)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=message) as caught:
        opened(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_a_detector_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = red_detector(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputError, match=r"absent\.onnx"):
        opened(tmp_path / "absent.onnx")
    for path in (tmp_path / "half.onnx", tmp_path / "text.onnx", tiny_model(tmp_path / "classifier.onnx")):
        with pytest.raises(ModelError, match=path.name) as caught:
            opened(path)
        assert "\n" not in str(caught.value)


# --- the locator ---


def located(locator: Locator, image: Image) -> list[tuple[Box, bool]]:
    return [(one.box_xyxy, one.begins) for one in locator.locate(Frame(0, 0.0, image, "frame"))]


def test_a_weak_score_continues_a_vehicle_but_starts_none(tmp_path: Path) -> None:
    options = LocateOptions(detector=opened(red_detector(tmp_path / "d.onnx")), detect_score=0.6)
    locator = make_locator("detector", options)
    assert locator.moves
    assert located(locator, picture((2, 2))) == [(expected_box(2, 2), True)]
    assert located(locator, picture((2, 2), red=100)) == [(expected_box(2, 2), False)]
    assert located(locator, picture((2, 2), red=40)) == []


def test_a_single_image_gives_only_the_sure_vehicles(tmp_path: Path) -> None:
    options = LocateOptions(detector=opened(red_detector(tmp_path / "d.onnx")), detect_score=0.6, stills=True)
    locator = make_locator("detector", options)
    assert len(located(locator, picture((1, 1), (6, 4)))) == 2
    assert located(locator, picture((2, 2), red=100)) == []


def test_boxes_that_are_too_small_or_outside_the_zones_are_ignored(tmp_path: Path) -> None:
    detector = opened(red_detector(tmp_path / "d.onnx"))
    image = picture((1, 1), (6, 4))
    share = 48 * 32 / (128 * 96)
    for options, expected in (
        (LocateOptions(detector=detector, min_area=0.9 * share), 2),
        (LocateOptions(detector=detector, min_area=1.1 * share), 0),
        (LocateOptions(detector=detector, zones=(parse_zone("0,0 0.5,1"),)), 1),
        (LocateOptions(detector=detector, zones=(parse_zone("exclude=0,0 0.5,1"),)), 1),
        (LocateOptions(detector=detector, zones=(parse_zone("0,0 0.5,1"), parse_zone("exclude=0,0 1,0.7"))), 0),
    ):
        assert len(located(make_locator("detector", options), image)) == expected


# --- official detectors ---


@pytest.fixture(scope="module")
def yolox() -> Detector:
    path = REPOSITORY.parent / "shared" / "models" / "yolox_nano_coco.onnx"
    if not path.is_file():
        pytest.skip("no real input: ../shared is not beside the checkout")
    return open_detector(path, ep="cpu", threads=1)


def frame_of(clip: Path, index: int) -> NDArray[np.uint8]:
    capture = cv2.VideoCapture(str(clip))
    capture.set(cv2.CAP_PROP_POS_FRAMES, index)
    done, image = capture.read()
    capture.release()
    assert done
    return np.asarray(image, np.uint8)


@pytest.mark.shared
def test_the_official_yolox_finds_the_car_in_photographs_of_cars(yolox: Detector, shared: Path) -> None:
    photographs = sorted((shared / "cars196" / "images").iterdir())[:: 7329 // 40][:40]
    found = 0
    for photograph in photographs:
        image = np.asarray(cv2.imread(str(photograph)), np.uint8)
        boxes = yolox.detect(image, yolox.class_ids(VEHICLES), 0.3)
        whole = (0, 0, image.shape[1], image.shape[0])  # the photographs are cropped to the car
        found += any(iou(one.box_xyxy, whole) > 0.6 for one in boxes)
    assert found >= 37


@pytest.mark.shared
def test_a_car_seen_from_straight_above_is_not_detected_as_a_car(yolox: Detector, shared: Path) -> None:
    image = frame_of(shared / "clips" / "parking_lot_overhead.mp4", 80)
    assert yolox.detect(image, yolox.class_ids(VEHICLES), 0.3) == []
    (found,) = yolox.detect(image, yolox.class_ids(("any",)), 0.3)
    assert iou(found.box_xyxy, (269, 67, 436, 342)) > 0.7
    assert found.score > 0.6
    assert found.kind is None
