"""A vehicle's answer combines all its crops; good crops have more weight than poor ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import road
from tests.support.tiny_model import CLASSES, RED, tiny_model, with_manifest
from tests.support.visit_toys import MIDDLE, classifier, evidence_of, frame, probabilities
from twincar_edge.manifest import CropSizesRecord
from twincar_edge.runtime.evidence import Evidence, VehicleCrop, crop_vehicle, crop_weight, sharpness
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.sources import Frame


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return classifier(tmp_path_factory.mktemp("model") / "tiny.onnx")


def of_boxes(model: Classifier, *crops: tuple[Box, tuple[float, ...]]) -> Evidence:
    evidence = Evidence()
    for index, (box, row) in enumerate(crops):
        evidence.add(crop_vehicle(frame(index), box, 1.0), probabilities(*row), model)
    return evidence


def test_many_agreeing_crops_are_as_sure_as_one_of_them(model: Classifier) -> None:
    row = (0.7, 0.2, 0.1)
    evidence = evidence_of(model, *[row] * 50)
    assert evidence.probabilities == pytest.approx(row, abs=1e-5)
    assert evidence.crops == 50


def test_the_answer_is_the_geometric_mean_of_the_crops_probabilities(model: Classifier) -> None:
    rows = [(0.6, 0.3, 0.1), (0.2, 0.5, 0.3)]
    mean = np.sqrt(np.prod(rows, axis=0))
    assert evidence_of(model, *rows).probabilities == pytest.approx(mean / mean.sum(), abs=1e-5)


def test_large_crops_outweigh_small_ones(model: Classifier) -> None:
    small, large = (100, 50, 120, 62), (90, 40, 210, 112)
    evidence = of_boxes(model, *[(small, (0.1, 0.9, 0.0))] * 5, (large, (0.9, 0.1, 0.0)))
    assert evidence.probabilities[0] > 0.8


def test_crops_that_the_border_cuts_weigh_little_and_are_not_shown(model: Classifier) -> None:
    cut, whole = (0, 50, 160, 130), (100, 50, 220, 130)
    evidence = of_boxes(model, (cut, (0.1, 0.9, 0.0)), (whole, (0.8, 0.2, 0.0)), (cut, (0.1, 0.9, 0.0)))
    assert evidence.probabilities[0] > 0.6
    shown = evidence.shown(evidence.answer())
    assert (shown.box_xyxy, shown.frame) == (whole, 1)
    assert shown.picture_bgr.shape == (80, 120, 3)


def test_the_deciding_frames_are_those_of_the_heaviest_crops(model: Classifier) -> None:
    boxes = [(100 - size, 50 - size // 2, 100 + size, 50 + size // 2) for size in range(10, 50)]
    evidence = of_boxes(model, *[(box, (0.8, 0.1, 0.1)) for box in boxes])
    frames = evidence.deciding_frames(evidence.answer())
    assert len(frames) == 16
    assert frames[0] == evidence.shown(evidence.answer()).frame
    weights = [crop_vehicle(frame(), boxes[index], 1.0).weight for index in range(40)]
    assert sorted(range(40), key=lambda index: -weights[index])[:16] == list(frames)


def test_the_course_has_each_leading_class_and_the_last_state(model: Classifier) -> None:
    blue, red = (0.1, 0.85, 0.05), (0.8, 0.1, 0.1)
    course = evidence_of(model, blue, red, red, red, red).course()
    assert [(lead.frame, lead.name) for lead in course] == [(0, CLASSES[1]), (2, CLASSES[0]), (4, CLASSES[0])]
    assert course[1].probability < course[2].probability
    assert course[2].probability == pytest.approx(evidence_of(model, blue, *[red] * 4).probabilities[0], abs=1e-5)
    assert [lead.frame for lead in evidence_of(model, red).course()] == [0]


def test_a_course_with_many_changes_keeps_its_first_and_its_newest_entries(model: Classifier) -> None:
    rows = [(0.9, 0.05, 0.05), *[row for _ in range(20) for row in ((0.001, 0.998, 0.001), (0.998, 0.001, 0.001))]]
    rows.append(rows[0])
    course = evidence_of(model, *rows).course()
    assert len(course) == 16
    assert (course[0].frame, course[-1].frame) == (0, 41)
    assert [lead.frame for lead in course] == sorted(lead.frame for lead in course)


def test_one_crop_cannot_rule_out_a_class_permanently(model: Classifier) -> None:
    assert evidence_of(model, (0.0, 1.0, 0.0), *[(0.99, 0.01, 0.0)] * 20).probabilities[0] > 0.9


def test_the_best_crop_is_a_copy_that_outlives_its_frame(model: Classifier) -> None:
    picture = road()
    evidence = Evidence()
    evidence.add(crop_vehicle(Frame(0, 0.0, picture, "x"), MIDDLE, 1.0), probabilities(1.0, 0.0, 0.0), model)
    picture[:] = 0
    assert evidence.shown(evidence.answer()).picture_bgr.mean() > 50


def test_answers_of_another_model_discard_earlier_ones(model: Classifier, tmp_path: Path) -> None:
    evidence = evidence_of(model, *[(0.9, 0.05, 0.05)] * 9)
    assert evidence.classifier is model
    other = classifier(tmp_path / "other.onnx", classes=(*CLASSES, "Pollux Gray Van 2019"))
    for index in (9, 10, 11):
        evidence.add(crop_vehicle(frame(index), MIDDLE, 1.0), probabilities(0.05, 0.05, 0.1, 0.8), other)
    assert (evidence.crops, evidence.classifier) == (3, other)
    assert evidence.answer().name == "Pollux Gray Van 2019"


def test_reopening_the_same_model_keeps_earlier_answers(model: Classifier) -> None:
    evidence = evidence_of(model, *[(0.9, 0.05, 0.05)] * 3)
    again = classifier(model.session.model)
    evidence.add(crop_vehicle(frame(3), MIDDLE, 1.0), probabilities(0.9, 0.05, 0.05), again)
    assert (evidence.crops, evidence.classifier) == (4, again)


# --- consensus, and the picture for the answer ---

SURE_RED, SURE_GREEN, SURE_BLUE = (0.96, 0.02, 0.02), (0.02, 0.96, 0.02), (0.02, 0.02, 0.96)
FLAT = (0.28, 0.27, 0.45)
Row = tuple[float, ...]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A model whose crops need 64 pixels for a full name."""
    folder = tmp_path_factory.mktemp("strict")
    sizes = CropSizesRecord(minimum_px=64, tolerance=0.02, images=100, coverage=0.9, right=0.9, sizes=())
    tiny_model(folder / "plain.onnx", reject_below=0.8)
    path = with_manifest(folder / "plain.onnx", folder / "strict.onnx", crop_sizes=sizes)
    return Classifier(open_session(path, ep="cpu", threads=1))


def weighed(model: Classifier, *crops: tuple[float, Row], size_px: int = 64) -> Evidence:
    """The evidence of crops with these weights and answers; the frame index is the crop's index."""
    evidence = Evidence()
    for index, (weight, row) in enumerate(crops):
        picture = np.zeros((size_px, 2 * size_px, 3), np.uint8)
        evidence.add(VehicleCrop(index, MIDDLE, picture, weight), probabilities(*row), model)
    return evidence


def test_a_full_name_needs_three_crops_and_a_make_as_many_as_there_are(strict: Classifier) -> None:
    answers = [weighed(strict, *[(1, SURE_RED)] * crops).answer() for crops in (1, 2, 3)]
    assert [(answer.name, answer.level) for answer in answers] == [
        ("Castor", "make"),
        ("Castor", "make"),
        (RED, "year"),
    ]


def test_a_single_heavy_crop_is_not_enough_for_a_name(strict: Classifier) -> None:
    evidence = weighed(strict, (100, SURE_RED), *[(1, (0.2, 0.2, 0.6))] * 4)
    assert strict.answer(evidence.probabilities).name == RED  # by the mean alone
    assert evidence.answer().name == "unknown"


def test_the_name_must_be_the_most_probable_one_for_most_crops(strict: Classifier) -> None:
    doubtful = (0.4, 0.45, 0.15)
    for others, level in ((2, "year"), (3, "make")):
        evidence = weighed(strict, *[(10, SURE_RED)] * 3, *[(1, doubtful)] * others)
        assert strict.answer(evidence.probabilities).name == RED
        assert evidence.answer().level == level


@pytest.mark.parametrize(
    ("crops", "merged"),
    [
        ([SURE_RED] * 5 + [SURE_BLUE] * 3, True),
        ([SURE_RED] * 5 + [FLAT] * 9 + [SURE_BLUE] * 3, True),
        ([SURE_RED] * 5 + [SURE_BLUE] * 2, False),  # too few for a conclusion
        ([SURE_RED] * 5 + [SURE_BLUE] * 3 + [SURE_RED], False),  # one vehicle with an unsure answer
        ([SURE_RED] * 5 + [SURE_GREEN] * 3, False),  # of the same make
        ([SURE_RED] * 5 + [(0.1, 0.1, 0.8)] * 3, False),  # not clearly another name
    ],
)
def test_crops_of_one_make_and_later_of_another_are_two_merged_vehicles(
    strict: Classifier, crops: list[Row], merged: bool
) -> None:
    evidence = weighed(strict, *[(10 if row is SURE_RED else 1, row) for row in crops])
    assert strict.answer(evidence.probabilities).name == RED  # by the mean alone
    assert evidence.merged == merged
    assert evidence.limit == ("merged" if merged else None)
    assert (evidence.answer().name == "unknown") == merged
    assert not weighed(strict, *[(1, row) for row in crops], size_px=63).merged  # too small for a full name


def test_the_limit_says_if_all_crops_are_cut_or_too_small(strict: Classifier) -> None:
    picture = np.zeros((64, 128, 3), np.uint8)
    evidence = Evidence()
    evidence.add(VehicleCrop(0, MIDDLE, picture, 1.0, cut=True), probabilities(*SURE_RED), strict)
    assert evidence.limit == "cut"
    evidence.add(VehicleCrop(1, MIDDLE, picture[:63], 1.0), probabilities(*SURE_RED), strict)
    assert evidence.limit is None  # the cut crop was large enough
    assert weighed(strict, (1, SURE_RED), size_px=63).limit == "small"
    assert weighed(strict, (1, SURE_RED)).limit is None


def test_a_zone_at_the_border_does_not_mark_its_vehicle_as_cut() -> None:
    box = (0, 50, 160, 130)
    assert crop_vehicle(frame(), box, 1.0).cut
    place = crop_vehicle(frame(), box, 1.0, place=True)
    assert not place.cut and place.weight == pytest.approx(10 * crop_vehicle(frame(), box, 1.0).weight)


def test_a_name_needs_a_crop_that_clearly_supports_it_on_its_own(strict: Classifier) -> None:
    nearly = (0.82, 0.17, 0.01)  # a compressed picture may fall below the threshold of 0.8
    evidence = weighed(strict, *[(1, nearly)] * 9)
    assert strict.answer(evidence.probabilities).name == RED
    assert evidence.answer().name == "Castor"


def test_crops_below_the_models_size_limit_get_no_full_name(strict: Classifier) -> None:
    assert weighed(strict, *[(1, SURE_RED)] * 9, size_px=63).answer().name == "Castor Red Sedan"
    assert weighed(strict, *[(1, SURE_RED)] * 9, size_px=64).answer().name == RED


def test_the_answer_for_a_single_image_is_the_classifiers_own(strict: Classifier) -> None:
    for row in (SURE_RED, (0.82, 0.17, 0.01), FLAT):
        evidence = Evidence(single=True)
        crop = crop_vehicle(frame(), MIDDLE, 1.0)
        evidence.add(crop, probabilities(*row), strict)
        assert evidence.answer() == strict.answer(evidence.probabilities, size_px=crop.size_px)


@pytest.mark.parametrize(("size_px", "name"), [(63, "Castor Red Sedan"), (64, RED)])
def test_a_single_image_below_the_models_size_limit_gets_no_full_name(
    strict: Classifier, size_px: int, name: str
) -> None:
    evidence = Evidence(single=True)
    evidence.add(crop_vehicle(frame(), (0, 0, 120, size_px), 1.0), probabilities(*SURE_RED), strict)
    assert evidence.answer().name == name


def test_the_picture_is_the_heaviest_crop_that_clearly_supports_the_answer(strict: Classifier) -> None:
    crops = [(5, SURE_RED), (7, SURE_RED), (6, SURE_RED), (8, (0.82, 0.17, 0.01)), (9, SURE_BLUE)]
    evidence = weighed(strict, *crops)
    red = strict.answer(probabilities(*SURE_RED))
    assert evidence.shown(red).frame == 1
    assert evidence.deciding_frames(red) == (1, 3, 2, 0)


def test_the_picture_of_unknown_is_a_crop_whose_own_answer_is_unknown(tmp_path: Path) -> None:
    stricter = classifier(tmp_path / "tiny.onnx", reject_below=0.95)
    evidence = weighed(stricter, (9, SURE_RED), (9, SURE_BLUE), (1, FLAT))
    answer = evidence.answer()
    assert answer.name == "unknown"
    assert evidence.shown(answer).frame == 2
    assert evidence.deciding_frames(answer) == (2,)


def test_the_number_of_pictures_in_memory_is_bounded_for_any_number_of_answers(tmp_path: Path) -> None:
    many = classifier(tmp_path / "many.onnx", classes=tuple(f"Make{number} Car Sedan 2020" for number in range(40)))
    evidence = Evidence()
    for index in range(400):
        row = np.full(40, 0.001, np.float32)
        row[0 if index % 2 else 1 + index % 39] = 0.961
        evidence.add(crop_vehicle(frame(index), MIDDLE, 1.0), row, many)
    assert len(evidence._pictures) <= 4
    assert evidence.shown(many.answer(np.eye(40, dtype=np.float32)[0])).frame % 2


# --- sharpness ---


def scene(seed: int = 0) -> np.ndarray:
    """A picture with structure at every scale, like a photo."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((300, 400, 3), np.float32)
    for cells in (4, 16, 64, 128):
        picture += cv2.resize(rng.normal(0, 20, (cells, cells, 3)).astype(np.float32), (400, 300))
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def test_defocus_and_motion_blur_reduce_sharpness_at_any_size() -> None:
    sharp = scene()
    soft = cv2.GaussianBlur(sharp, (0, 0), 6)
    dragged = cv2.blur(sharp, (25, 1))
    large = cv2.resize(soft, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert sharpness(sharp) > 3 * sharpness(dragged) > 0
    assert sharpness(sharp) > 10 * sharpness(soft)
    assert sharpness(large.astype(np.uint8)) == pytest.approx(sharpness(soft), rel=0.5)


def test_a_blurred_crop_weighs_less_than_a_sharp_one_but_more_than_zero() -> None:
    sharp = scene()
    soft = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 6), np.uint8)
    assert crop_weight(sharp, 1.0, cut=False) > 3 * crop_weight(soft, 1.0, cut=False) > 0
    assert crop_weight(np.zeros((20, 30, 3), np.uint8), 1.0, cut=True) > 0
    assert crop_weight(sharp, 1.0, cut=True) == pytest.approx(0.1 * crop_weight(sharp, 1.0, cut=False))


def test_the_picture_is_the_sharpest_of_otherwise_equal_crops(model: Classifier) -> None:
    sharp = scene()
    pictures = [np.asarray(cv2.GaussianBlur(sharp, (0, 0), s), np.uint8) for s in (8, 4)]
    evidence = Evidence()
    for index, picture in enumerate([*pictures, sharp, pictures[0]]):
        evidence.add(crop_vehicle(Frame(index, 0.0, picture, "x"), MIDDLE, 1.0), probabilities(1.0, 0.0, 0.0), model)
    assert evidence.shown(evidence.answer()).frame == 2
