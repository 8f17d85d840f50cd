"""A visit's answer is that of all its crops together, told once and told anew only when it is clearly better."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import road
from tests.support.tiny_model import BLUE, CLASSES, GREEN, RED, tiny_model
from twincar_edge.runtime.evidence import Evidence, crop_weight, look_at, sharpness, travel_direction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.visits import PATIENCE, VisitMaker

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
MIDDLE: Box = (100, 50, 200, 110)


def probabilities(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def classifier(path: Path, **options: object) -> Classifier:
    return Classifier(open_session(tiny_model(path, **options), ep="cpu", threads=1))  # type: ignore[arg-type]


def maker(tmp_path: Path, **options: object) -> VisitMaker:
    times = iter(NOW + timedelta(seconds=i) for i in range(100))
    ids = iter(f"id-{i}" for i in range(100))
    return VisitMaker("gate.mp4", classifier(tmp_path / "tiny.onnx", **options), clock=lambda: next(times),
                      new_id=lambda: next(ids))  # fmt: skip


def frame(index: int = 0) -> Frame:
    return Frame(index, index / 25, road(), "gate.mp4")


@pytest.fixture
def visits(tmp_path: Path) -> VisitMaker:
    return maker(tmp_path)


def evidence(visits: VisitMaker, *crops: tuple[Box, np.ndarray]) -> Evidence:
    gathered = visits.begin(frame(), crops[0][0])
    for index, (box, row) in enumerate(crops):
        gathered.see(frame(index), box)
        gathered.add(look_at(frame(index), box, 1.0), row)
    return gathered


def test_crops_that_agree_are_as_sure_as_one_of_them_however_many(visits: VisitMaker) -> None:
    row = probabilities(0.7, 0.2, 0.1)
    assert evidence(visits, *[(MIDDLE, row)] * 50).probabilities == pytest.approx(row, abs=1e-5)


def test_the_answer_is_the_geometric_mean_of_what_the_crops_say(visits: VisitMaker) -> None:
    rows = [probabilities(0.6, 0.3, 0.1), probabilities(0.2, 0.5, 0.3)]
    mean = np.sqrt(rows[0] * rows[1])
    assert evidence(visits, *[(MIDDLE, row) for row in rows]).probabilities == pytest.approx(
        mean / mean.sum(), abs=1e-5
    )


def test_large_crops_outweigh_small_ones(visits: VisitMaker) -> None:
    small, large = (100, 50, 120, 62), (90, 40, 210, 112)
    result = evidence(visits, *[(small, probabilities(0.1, 0.9))] * 5, (large, probabilities(0.9, 0.1))).probabilities
    assert result[0] > 0.8


def test_crops_that_the_border_cuts_weigh_little_and_are_not_shown(visits: VisitMaker) -> None:
    cut, whole = (0, 50, 160, 130), (100, 50, 220, 130)
    gathered = evidence(
        visits, (cut, probabilities(0.1, 0.9)), (whole, probabilities(0.8, 0.2)), (cut, probabilities(0.1, 0.9))
    )
    assert gathered.probabilities[0] > 0.6
    assert (gathered.best_box, gathered.best_frame) == (whole, 1)
    assert gathered.best_crop.shape == (80, 120, 3)


def test_a_class_that_one_crop_rules_out_is_not_ruled_out_for_ever(visits: VisitMaker) -> None:
    sure_of_other = evidence(visits, (MIDDLE, probabilities(0.0, 1.0)), *[(MIDDLE, probabilities(0.99, 0.01))] * 20)
    assert sure_of_other.probabilities[0] > 0.9


def test_the_best_crop_is_a_copy_and_survives_its_frame(visits: VisitMaker) -> None:
    picture = road()
    gathered = visits.begin(Frame(0, 0.0, picture, "x"), MIDDLE)
    gathered.add(look_at(Frame(0, 0.0, picture, "x"), MIDDLE, 1.0), probabilities(1.0, 0.0, 0.0))
    picture[:] = 0
    assert gathered.best_crop.mean() > 50


def test_a_visit_says_what_when_where_and_by_which_model(tmp_path: Path) -> None:
    visits = maker(tmp_path)
    gathered = visits.begin(frame(10), (20, 50, 120, 110))
    for index, left in ((10, 20), (11, 60), (12, 150)):
        gathered.see(frame(index), (left, 50, left + 100, 110))
        gathered.add(look_at(frame(index), (left, 50, left + 100, 110), 1.0), probabilities(0.8, 0.15, 0.05))
    visit = visits.finish(gathered)
    assert (visit.id, visit.source, visit.image) == ("id-0", "gate.mp4", None)
    assert (visit.name, visit.make, visit.model, visit.body_type, visit.year) == (RED, "Castor", "Red", "Sedan", 2020)
    assert [guess.name for guess in visit.top5] == [RED, GREEN, BLUE]
    assert visit.probability == visit.top5[0].probability == pytest.approx(0.8, abs=1e-5)
    assert (visit.first_time_s, visit.last_time_s, visit.first_frame, visit.last_frame) == (0.4, 0.48, 10, 12)
    assert (visit.started_at, visit.ended_at) == (NOW, NOW + timedelta(seconds=1))
    assert (visit.crops, visit.direction) == (3, "left_to_right")
    assert visit.classifier.name == "tiny"
    assert visit.classifier.ep == "cpu"
    assert len(visit.classifier.sha256) == 64


def test_an_answer_below_the_manifests_threshold_is_unknown_with_its_guesses(tmp_path: Path) -> None:
    visits = maker(tmp_path, reject_below=0.97)
    visit = visits.finish(evidence(visits, (MIDDLE, probabilities(0.8, 0.15, 0.05))))
    assert (visit.name, visit.level, visit.make, visit.model) == ("unknown", "unknown", None, None)
    assert (visit.body_type, visit.year) == (None, None)
    assert visit.probability == pytest.approx(0.8, abs=1e-5)
    assert visit.top5[0].name == RED


def test_an_answer_of_a_make_alone_leaves_model_body_and_year_open(tmp_path: Path) -> None:
    visits = maker(tmp_path, reject_below=0.9)
    visit = visits.finish(evidence(visits, (MIDDLE, probabilities(0.5, 0.45, 0.05))))
    assert (visit.name, visit.level, visit.make) == ("Castor", "make", "Castor")
    assert (visit.model, visit.body_type, visit.year) == (None, None, None)
    assert visit.probability == pytest.approx(0.95, abs=1e-5)
    assert visit.top5[0].name == RED


def test_a_single_image_has_no_time_and_its_name_stands_in_the_event(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    visits = VisitMaker("inbox", Classifier(open_session(model, ep="cpu", threads=1)), stills=True)
    gathered = visits.begin(Frame(4, 0.0, road(), "car_4.jpg"), MIDDLE)
    gathered.add(look_at(frame(4), MIDDLE, 1.0), probabilities(0.8, 0.15, 0.05))
    visit = visits.finish(gathered)
    assert (visit.image, visit.first_frame, visit.first_time_s, visit.last_time_s) == ("car_4.jpg", 4, None, None)
    assert re.fullmatch(r"[0-9a-f-]{36}", visit.id)
    assert visit.started_at.tzinfo is not None


# Sharpness


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


def test_the_sharpest_of_equal_crops_is_the_one_that_is_shown(visits: VisitMaker) -> None:
    sharp = scene()
    pictures = [np.asarray(cv2.GaussianBlur(sharp, (0, 0), s), np.uint8) for s in (8, 4)]
    gathered = visits.begin(Frame(0, 0.0, pictures[0], "x"), MIDDLE)
    for index, picture in enumerate([*pictures, sharp, pictures[0]]):
        gathered.add(look_at(Frame(index, 0.0, picture, "x"), MIDDLE, 1.0), probabilities(1.0, 0.0, 0.0))
    assert gathered.best_frame == 2


# What is told, and when

SURE, DOUBTFUL, OTHER = (0.9, 0.05, 0.05), (0.45, 0.45, 0.1), (0.02, 0.03, 0.95)


def told(visits: VisitMaker, rows: Sequence[tuple[float, ...]]) -> list[tuple[str, str]]:
    """Type and name of what is told as the evidence moves: each row is all that the crops say together by then."""
    gathered = visits.begin(frame(), MIDDLE)
    news = []
    for index, row in enumerate(rows):
        gathered.crops, gathered._weight, gathered._log_probabilities = 0, 0.0, 0.0  # the row alone, not the mean
        gathered.add(look_at(frame(index), MIDDLE, 1.0), probabilities(*row))
        news.append(visits.news(gathered))
    news.append(visits.finish(gathered))
    assert {event.id for event in news if event is not None} == {"id-0"}
    return [(event.type, event.name) for event in news if event is not None]


def test_a_visit_that_keeps_its_answer_has_a_start_and_an_end(tmp_path: Path) -> None:
    assert told(maker(tmp_path, reject_below=0.8), [SURE] * 20) == [("start", RED), ("end", RED)]


def test_an_answer_may_go_deeper_at_once(tmp_path: Path) -> None:
    rows = [(0.4, 0.3, 0.3), DOUBTFUL, SURE]
    expected = [("start", "unknown"), ("update", "Castor"), ("update", RED), ("end", RED)]
    assert told(maker(tmp_path, reject_below=0.8), rows) == expected


def test_a_probability_that_crosses_the_threshold_to_and_fro_does_not_make_the_answer_flap(tmp_path: Path) -> None:
    rows = [(0.82, 0.1, 0.08), (0.78, 0.13, 0.09)] * 20
    end = told(maker(tmp_path, reject_below=0.8), rows)
    assert end == [("start", RED), ("end", "Castor")]  # the end alone says what the evidence says


def test_an_answer_against_which_the_evidence_is_clearly_and_for_some_crops_is_taken_back(tmp_path: Path) -> None:
    for against, then in ((DOUBTFUL, "Castor"), ((0.4, 0.3, 0.3), "unknown"), (OTHER, BLUE)):
        visits = maker(tmp_path, reject_below=0.8)
        assert told(visits, [SURE, *[against] * (PATIENCE - 1), SURE]) == [("start", RED), ("end", RED)]
        visits = maker(tmp_path, reject_below=0.8)
        assert told(visits, [SURE, *[against] * PATIENCE]) == [("start", RED), ("update", then), ("end", then)]


def test_without_a_threshold_two_classes_that_are_nearly_alike_do_not_take_turns(tmp_path: Path) -> None:
    rows = [(0.46, 0.44, 0.1)] * 5 + [(0.44, 0.46, 0.1)] * 20
    assert told(maker(tmp_path), rows) == [("start", RED), ("end", GREEN)]


def test_each_event_has_all_that_is_known_by_then(visits: VisitMaker) -> None:
    gathered = visits.begin(frame(10), (20, 50, 120, 110))
    gathered.zone = "gate"
    gathered.add(look_at(frame(10), (20, 50, 120, 110), 1.0), probabilities(0.8, 0.15, 0.05))
    start = visits.news(gathered)
    assert start is not None and gathered.started
    assert (start.type, start.ended_at, start.last_frame, start.crops, start.zone) == ("start", None, 10, 1, "gate")
    gathered.see(frame(14), (190, 50, 290, 110))
    assert visits.news(gathered) is None
    end = visits.finish(gathered)
    assert (end.type, end.id, end.last_frame, end.direction) == ("end", start.id, 14, "left_to_right")
    assert end.ended_at is not None and end.started_at == start.started_at == NOW


def test_a_vehicle_may_be_seen_from_one_thread_while_another_tells_of_it(visits: VisitMaker) -> None:
    gathered = visits.begin(frame(), MIDDLE)
    gathered.add(look_at(frame(), MIDDLE, 1.0), probabilities(0.8, 0.15, 0.05))
    done = threading.Event()

    def look() -> None:
        for index in range(20_000):
            gathered.see(Frame(index, index / 25, road_bgr, "x"), MIDDLE)
        done.set()

    road_bgr = road()
    thread = threading.Thread(target=look)
    thread.start()
    try:
        while not done.is_set():
            gathered.crops = 1
            number, time_s, _ = gathered._last
            assert time_s == number / 25
    finally:
        thread.join()


# Another model


def test_another_models_crops_are_not_mixed_with_those_before(tmp_path: Path) -> None:
    visits = maker(tmp_path)
    gathered = evidence(visits, *[(MIDDLE, probabilities(0.9, 0.05, 0.05))] * 9)
    assert visits.news(gathered) is not None
    visits.use(classifier(tmp_path / "other.onnx", classes=(*CLASSES, "Pollux Grey Van 2019")))
    gathered.add(look_at(frame(20), MIDDLE, 1.0), probabilities(0.05, 0.05, 0.1, 0.8))
    end = visits.finish(gathered)
    assert (end.id, end.name, end.crops) == ("id-0", "Pollux Grey Van 2019", 1)
    assert end.probability == pytest.approx(0.8, abs=1e-5)
    assert (end.first_frame, len(end.top5)) == (0, 4)


def test_a_vehicle_that_the_new_model_never_sees_ends_in_the_name_of_the_old(tmp_path: Path) -> None:
    visits = maker(tmp_path)
    gone = evidence(visits, (MIDDLE, probabilities(0.9, 0.05, 0.05)))
    start = visits.news(gone)
    visits.use(classifier(tmp_path / "other.onnx", classes=CLASSES[:2]))
    end = visits.finish(gone)
    assert start is not None and end.classifier == start.classifier
    assert (end.name, len(end.top5)) == (RED, 3)
    fresh = evidence(visits, (MIDDLE, probabilities(0.1, 0.9)))
    assert visits.finish(fresh).classifier.sha256 != start.classifier.sha256


def test_an_answer_that_the_new_model_does_not_know_gives_way_to_one_that_it_does(tmp_path: Path) -> None:
    visits = maker(tmp_path, reject_below=0.5)
    gathered = evidence(visits, (MIDDLE, probabilities(0.0, 0.0, 1.0)))
    assert visits.news(gathered) is not None
    visits.use(classifier(tmp_path / "other.onnx", classes=CLASSES[:2], reject_below=0.5))
    names = []
    for index in range(PATIENCE + 1):
        gathered.add(look_at(frame(20 + index), MIDDLE, 1.0), probabilities(0.1, 0.9))
        event = visits.news(gathered)
        names += [event.name] if event is not None else []
    assert names == [GREEN]


def test_the_same_model_opened_again_goes_on_with_what_is_known(tmp_path: Path) -> None:
    visits = maker(tmp_path)
    gathered = evidence(visits, *[(MIDDLE, probabilities(0.9, 0.05, 0.05))] * 3)
    visits.use(classifier(tmp_path / "tiny.onnx"))
    gathered.add(look_at(frame(9), MIDDLE, 1.0), probabilities(0.9, 0.05, 0.05))
    assert visits.finish(gathered).crops == 4


# Direction


@pytest.mark.parametrize(
    ("last", "direction"),
    [
        ((200, 0, 300, 60), "left_to_right"),
        ((-200, 0, -100, 60), "right_to_left"),
        ((10, 150, 110, 210), "down"),
        ((10, -150, 110, -90), "up"),
        ((10, 5, 110, 65), "none"),
    ],
)
def test_direction_is_the_axis_on_which_it_moved_farther(last: Box, direction: str) -> None:
    assert travel_direction((0, 0, 100, 60), last) == direction
