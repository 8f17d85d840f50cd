"""The answer for a vehicle is that of all its crops together, in which a good crop counts more than a poor one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import road
from tests.support.tiny_model import CLASSES, RED, tiny_model, with_manifest
from tests.support.visit_toys import MIDDLE, classifier, evidence_of, frame, probabilities
from twincar_edge.manifest import CropSizesRecord
from twincar_edge.runtime.evidence import Evidence, Look, crop_weight, look_at, sharpness
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
        evidence.add(look_at(frame(index), box, 1.0), probabilities(*row), model)
    return evidence


def test_crops_that_agree_are_as_sure_as_one_of_them_however_many(model: Classifier) -> None:
    row = (0.7, 0.2, 0.1)
    evidence = evidence_of(model, *[row] * 50)
    assert evidence.probabilities == pytest.approx(row, abs=1e-5)
    assert evidence.crops == 50


def test_the_answer_is_the_geometric_mean_of_what_the_crops_say(model: Classifier) -> None:
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


def test_the_frames_that_decide_are_those_of_the_heaviest_crops(model: Classifier) -> None:
    boxes = [(100 - size, 50 - size // 2, 100 + size, 50 + size // 2) for size in range(10, 50)]
    evidence = of_boxes(model, *[(box, (0.8, 0.1, 0.1)) for box in boxes])
    frames = evidence.deciding_frames(evidence.answer())
    assert len(frames) == 16
    assert frames[0] == evidence.shown(evidence.answer()).frame
    weights = [look_at(frame(), boxes[index], 1.0).weight for index in range(40)]
    assert sorted(range(40), key=lambda index: -weights[index])[:16] == list(frames)


def test_the_course_has_each_class_that_took_the_lead_and_the_end(model: Classifier) -> None:
    blue, red = (0.1, 0.85, 0.05), (0.8, 0.1, 0.1)
    course = evidence_of(model, blue, red, red, red, red).course()
    assert [(lead.frame, lead.name) for lead in course] == [(0, CLASSES[1]), (2, CLASSES[0]), (4, CLASSES[0])]
    assert course[1].probability < course[2].probability
    assert course[2].probability == pytest.approx(evidence_of(model, blue, *[red] * 4).probabilities[0], abs=1e-5)
    assert [lead.frame for lead in evidence_of(model, red).course()] == [0]


def test_a_course_that_changes_all_the_time_keeps_its_beginning_and_its_end(model: Classifier) -> None:
    rows = [(0.9, 0.05, 0.05), *[row for _ in range(20) for row in ((0.001, 0.998, 0.001), (0.998, 0.001, 0.001))]]
    rows.append(rows[0])
    course = evidence_of(model, *rows).course()
    assert len(course) == 16
    assert (course[0].frame, course[-1].frame) == (0, 41)
    assert [lead.frame for lead in course] == sorted(lead.frame for lead in course)


def test_a_class_that_one_crop_rules_out_is_not_ruled_out_for_ever(model: Classifier) -> None:
    assert evidence_of(model, (0.0, 1.0, 0.0), *[(0.99, 0.01, 0.0)] * 20).probabilities[0] > 0.9


def test_the_best_crop_is_a_copy_and_survives_its_frame(model: Classifier) -> None:
    picture = road()
    evidence = Evidence()
    evidence.add(look_at(Frame(0, 0.0, picture, "x"), MIDDLE, 1.0), probabilities(1.0, 0.0, 0.0), model)
    picture[:] = 0
    assert evidence.shown(evidence.answer()).picture_bgr.mean() > 50


def test_answers_of_another_model_discard_those_before(model: Classifier, tmp_path: Path) -> None:
    evidence = evidence_of(model, *[(0.9, 0.05, 0.05)] * 9)
    assert evidence.classifier is model
    other = classifier(tmp_path / "other.onnx", classes=(*CLASSES, "Pollux Gray Van 2019"))
    for index in (9, 10, 11):
        evidence.add(look_at(frame(index), MIDDLE, 1.0), probabilities(0.05, 0.05, 0.1, 0.8), other)
    assert (evidence.crops, evidence.classifier) == (3, other)
    assert evidence.answer().name == "Pollux Gray Van 2019"


def test_the_same_model_opened_again_keeps_them(model: Classifier) -> None:
    evidence = evidence_of(model, *[(0.9, 0.05, 0.05)] * 3)
    again = classifier(model.session.model)
    evidence.add(look_at(frame(3), MIDDLE, 1.0), probabilities(0.9, 0.05, 0.05), again)
    assert (evidence.crops, evidence.classifier) == (4, again)


# --- consensus, and the picture that shows the answer ---

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
    """The evidence of crops with these weights and answers; a crop's frame is its place."""
    evidence = Evidence()
    for index, (weight, row) in enumerate(crops):
        picture = np.zeros((size_px, 2 * size_px, 3), np.uint8)
        evidence.add(Look(index, MIDDLE, picture, weight), probabilities(*row), model)
    return evidence


def test_a_full_name_needs_three_crops_and_a_make_as_many_as_there_are(strict: Classifier) -> None:
    told = [weighed(strict, *[(1, SURE_RED)] * crops).answer() for crops in (1, 2, 3)]
    assert [(answer.name, answer.level) for answer in told] == [("Castor", "make"), ("Castor", "make"), (RED, "year")]


def test_one_lucky_crop_names_nothing_however_heavy(strict: Classifier) -> None:
    evidence = weighed(strict, (100, SURE_RED), *[(1, (0.2, 0.2, 0.6))] * 4)
    assert strict.answer(evidence.probabilities).name == RED  # by the mean alone
    assert evidence.answer().name == "unknown"


def test_most_crops_must_find_the_name_the_most_probable(strict: Classifier) -> None:
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
        ([SURE_RED] * 5 + [SURE_BLUE] * 2, False),  # too few to say anything
        ([SURE_RED] * 5 + [SURE_BLUE] * 3 + [SURE_RED], False),  # one vehicle that the model is not sure of
        ([SURE_RED] * 5 + [SURE_GREEN] * 3, False),  # of the same make
        ([SURE_RED] * 5 + [(0.1, 0.1, 0.8)] * 3, False),  # not clearly another one
    ],
)
def test_crops_that_name_one_make_and_then_another_show_two_vehicles(
    strict: Classifier, crops: list[Row], merged: bool
) -> None:
    evidence = weighed(strict, *[(10 if row is SURE_RED else 1, row) for row in crops])
    assert strict.answer(evidence.probabilities).name == RED  # by the mean alone
    assert evidence.merged == merged
    assert evidence.limit == ("merged" if merged else None)
    assert (evidence.answer().name == "unknown") == merged
    assert not weighed(strict, *[(1, row) for row in crops], size_px=63).merged  # too small to say anything


def test_a_vehicle_that_is_cut_or_small_in_every_crop_is_held_back(strict: Classifier) -> None:
    picture = np.zeros((64, 128, 3), np.uint8)
    evidence = Evidence()
    evidence.add(Look(0, MIDDLE, picture, 1.0, cut=True), probabilities(*SURE_RED), strict)
    assert evidence.limit == "cut"
    evidence.add(Look(1, MIDDLE, picture[:63], 1.0), probabilities(*SURE_RED), strict)
    assert evidence.limit is None  # a cut crop was large enough
    assert weighed(strict, (1, SURE_RED), size_px=63).limit == "small"
    assert weighed(strict, (1, SURE_RED)).limit is None


def test_a_place_at_the_border_does_not_cut_the_vehicle_in_it() -> None:
    box = (0, 50, 160, 130)
    assert look_at(frame(), box, 1.0).cut
    place = look_at(frame(), box, 1.0, place=True)
    assert not place.cut and place.weight == pytest.approx(10 * look_at(frame(), box, 1.0).weight)


def test_what_no_crop_clearly_says_alone_no_visit_says(strict: Classifier) -> None:
    nearly = (0.82, 0.17, 0.01)  # a compressed picture of it may fall below the threshold of 0.8
    evidence = weighed(strict, *[(1, nearly)] * 9)
    assert strict.answer(evidence.probabilities).name == RED
    assert evidence.answer().name == "Castor"


def test_crops_below_the_size_that_the_file_asks_for_get_no_full_name(strict: Classifier) -> None:
    assert weighed(strict, *[(1, SURE_RED)] * 9, size_px=63).answer().name == "Castor Red Sedan"
    assert weighed(strict, *[(1, SURE_RED)] * 9, size_px=64).answer().name == RED


def test_a_single_image_is_answered_as_the_classifier_answers_it(strict: Classifier) -> None:
    for row in (SURE_RED, (0.82, 0.17, 0.01), FLAT):
        evidence = Evidence(single=True)
        evidence.add(look_at(frame(), MIDDLE, 1.0), probabilities(*row), strict)
        assert evidence.answer() == strict.answer(evidence.probabilities)


def test_the_picture_is_the_heaviest_of_the_crops_that_clearly_give_the_answer(strict: Classifier) -> None:
    crops = [(5, SURE_RED), (7, SURE_RED), (6, SURE_RED), (8, (0.82, 0.17, 0.01)), (9, SURE_BLUE)]
    evidence = weighed(strict, *crops)
    red = strict.answer(probabilities(*SURE_RED))
    assert evidence.shown(red).frame == 1
    assert evidence.deciding_frames(red) == (1, 3, 2, 0)


def test_unknown_is_shown_by_a_crop_that_is_unknown_alone(tmp_path: Path) -> None:
    stricter = classifier(tmp_path / "tiny.onnx", reject_below=0.95)
    evidence = weighed(stricter, (9, SURE_RED), (9, SURE_BLUE), (1, FLAT))
    answer = evidence.answer()
    assert answer.name == "unknown"
    assert evidence.shown(answer).frame == 2
    assert evidence.deciding_frames(answer) == (2,)


def test_few_pictures_are_kept_however_many_answers_the_crops_give(tmp_path: Path) -> None:
    many = classifier(tmp_path / "many.onnx", classes=tuple(f"Make{number} Car Sedan 2020" for number in range(40)))
    evidence = Evidence()
    for index in range(400):
        row = np.full(40, 0.001, np.float32)
        row[0 if index % 2 else 1 + index % 39] = 0.961
        evidence.add(look_at(frame(index), MIDDLE, 1.0), row, many)
    assert len(evidence._pictures) <= 4
    assert evidence.shown(many.answer(np.eye(40, dtype=np.float32)[0])).frame % 2


# --- sharpness ---


def scene(seed: int = 0) -> np.ndarray:
    """Something with structure of every size, as pictures of things have."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((300, 400, 3), np.float32)
    for cells in (4, 16, 64, 128):
        picture += cv2.resize(rng.normal(0, 20, (cells, cells, 3)).astype(np.float32), (400, 300))
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def test_what_is_out_of_focus_or_moves_is_less_sharp_whatever_its_size() -> None:
    sharp = scene()
    soft = cv2.GaussianBlur(sharp, (0, 0), 6)
    dragged = cv2.blur(sharp, (25, 1))
    large = cv2.resize(soft, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert sharpness(sharp) > 3 * sharpness(dragged) > 0
    assert sharpness(sharp) > 10 * sharpness(soft)
    assert sharpness(large.astype(np.uint8)) == pytest.approx(sharpness(soft), rel=0.5)


def test_a_blurred_crop_weighs_less_than_a_sharp_one_and_more_than_nothing() -> None:
    sharp = scene()
    soft = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 6), np.uint8)
    assert crop_weight(sharp, 1.0, cut=False) > 3 * crop_weight(soft, 1.0, cut=False) > 0
    assert crop_weight(np.zeros((20, 30, 3), np.uint8), 1.0, cut=True) > 0
    assert crop_weight(sharp, 1.0, cut=True) == pytest.approx(0.1 * crop_weight(sharp, 1.0, cut=False))


def test_the_sharpest_of_equal_crops_is_the_one_that_is_shown(model: Classifier) -> None:
    sharp = scene()
    pictures = [np.asarray(cv2.GaussianBlur(sharp, (0, 0), s), np.uint8) for s in (8, 4)]
    evidence = Evidence()
    for index, picture in enumerate([*pictures, sharp, pictures[0]]):
        evidence.add(look_at(Frame(index, 0.0, picture, "x"), MIDDLE, 1.0), probabilities(1.0, 0.0, 0.0), model)
    assert evidence.shown(evidence.answer()).frame == 2
