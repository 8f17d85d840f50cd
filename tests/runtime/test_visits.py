"""The events of a visit: their content, when they are published, and by which model."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.clips import road
from tests.support.tiny_model import BLUE, CLASSES, GREEN, RED
from tests.support.visit_toys import MIDDLE, agreeing, classifier, evidence_of, frame, probabilities
from twincar_edge.runtime.evidence import crop_vehicle
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.published import PATIENCE
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.visits import Visit, VisitMaker, travel_direction

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
Row = tuple[float, ...]


@pytest.fixture
def visits() -> VisitMaker:
    seconds = iter(range(100))
    ids = iter(f"id-{i}" for i in range(100))
    return VisitMaker("gate.mp4", clock=lambda: NOW, monotonic=lambda: next(seconds), new_id=lambda: next(ids))


@pytest.fixture
def model(tmp_path: Path) -> Classifier:
    return classifier(tmp_path / "tiny.onnx")


def add(visit: Visit, model: Classifier, row: Row, index: int = 0, box: Box = MIDDLE) -> None:
    visit.see(frame(index), box)
    visit.evidence.add(crop_vehicle(frame(index), box, 1.0), probabilities(*row), model)


def visit_of(visits: VisitMaker, model: Classifier, *rows: Row) -> Visit:
    """A visit whose crops got these answers."""
    visit = visits.begin(frame(), MIDDLE)
    for index, row in enumerate(rows):
        add(visit, model, row, index)
    return visit


def test_an_event_has_answer_time_place_and_model(visits: VisitMaker, model: Classifier) -> None:
    visit = visits.begin(frame(10), (20, 50, 120, 110))
    for index, left in ((10, 20), (11, 60), (12, 150)):
        add(visit, model, (0.8, 0.15, 0.05), index, (left, 50, left + 100, 110))
    end = visits.finish(visit)
    assert visit.shown is not None
    assert (end.id, end.source, end.image) == ("id-0", "gate.mp4", None)
    assert (end.name, end.make, end.model, end.body_type, end.year) == (RED, "Castor", "Red", "Sedan", 2020)
    assert [guess.name for guess in end.top5] == [RED, GREEN, BLUE]
    assert end.familiarity is None  # the model has no prototypes
    assert sorted(end.deciding_frames) == [10, 11, 12]
    assert end.best_frame == end.deciding_frames[0]
    assert end.probability == end.top5[0].probability == pytest.approx(0.8, abs=1e-5)
    assert (end.first_time_s, end.last_time_s, end.first_frame, end.last_frame) == (0.4, 0.48, 10, 12)
    assert (end.started_at, end.ended_at) == (NOW, NOW + timedelta(seconds=1))
    assert (end.crops, end.direction) == (3, "left_to_right")
    assert (end.best_frame, end.box_xyxy) == (visit.shown.frame, visit.shown.box_xyxy)
    assert end.classifier.name == "tiny"
    assert end.classifier.ep == "cpu"
    assert len(end.classifier.sha256) == 64


def test_an_answer_below_the_manifests_threshold_is_unknown_with_its_guesses(
    visits: VisitMaker, tmp_path: Path
) -> None:
    strict = classifier(tmp_path / "strict.onnx", reject_below=0.97)
    end = visits.finish(visit_of(visits, strict, (0.8, 0.15, 0.05)))
    assert (end.name, end.level, end.make, end.model) == ("unknown", "unknown", None, None)
    assert (end.body_type, end.year) == (None, None)
    assert end.probability == pytest.approx(0.8, abs=1e-5)
    assert end.top5[0].name == RED


def test_an_answer_with_only_a_make_has_no_model_body_type_or_year(visits: VisitMaker, tmp_path: Path) -> None:
    strict = classifier(tmp_path / "strict.onnx", reject_below=0.9)
    end = visits.finish(visit_of(visits, strict, *[(0.5, 0.47, 0.03)] * 3))
    assert (end.name, end.level, end.make) == ("Castor", "make", "Castor")
    assert (end.model, end.body_type, end.year) == (None, None, None)
    assert end.probability == pytest.approx(0.97, abs=1e-5)
    assert end.top5[0].name == RED


def test_the_event_of_a_single_image_has_its_name_and_no_times(model: Classifier) -> None:
    visits = VisitMaker("inbox", stills=True)
    visit = visits.begin(Frame(4, 0.0, road(), "car_4.jpg"), MIDDLE)
    visit.evidence = evidence_of(model, (0.8, 0.15, 0.05))
    end = visits.finish(visit)
    assert (end.image, end.first_frame, end.first_time_s, end.last_time_s) == ("car_4.jpg", 4, None, None)
    assert re.fullmatch(r"[0-9a-f-]{36}", end.id)
    assert end.started_at.tzinfo is not None


# --- what is published, and when ---

SURE, DOUBTFUL, OTHER = (0.9, 0.05, 0.05), (0.45, 0.45, 0.1), (0.02, 0.03, 0.95)


def published(visits: VisitMaker, model: Classifier, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Type and name of each event if the combined answer takes these values in turn."""
    visit = visits.begin(frame(), MIDDLE)
    events = []
    for row in rows:
        visit.evidence = agreeing(model, row)
        events.append(visits.next_event(visit))
    events.append(visits.finish(visit))
    assert len({event.id for event in events if event is not None}) == 1
    return [(event.type, event.name) for event in events if event is not None]


@pytest.fixture
def strict(tmp_path: Path) -> Classifier:
    return classifier(tmp_path / "strict.onnx", reject_below=0.8)


def test_a_visit_that_keeps_its_answer_has_a_start_and_an_end(visits: VisitMaker, strict: Classifier) -> None:
    assert published(visits, strict, [SURE] * 20) == [("start", RED), ("end", RED)]


def test_a_more_specific_answer_is_published_at_the_next_crop(visits: VisitMaker, strict: Classifier) -> None:
    rows = [(0.4, 0.3, 0.3), DOUBTFUL, SURE]
    expected = [("start", "unknown"), ("update", "Castor"), ("update", RED), ("end", RED)]
    assert published(visits, strict, rows) == expected


def test_the_answer_does_not_flap_if_the_probability_oscillates_around_the_threshold(
    visits: VisitMaker, strict: Classifier
) -> None:
    rows = [(0.9, 0.05, 0.05), (0.78, 0.13, 0.09)] * 20
    # Only the end event has the current answer.
    assert published(visits, strict, rows) == [("start", RED), ("end", "Castor")]


@pytest.mark.parametrize(("against", "then"), [(DOUBTFUL, "Castor"), ((0.4, 0.3, 0.3), "unknown"), (OTHER, BLUE)])
def test_an_answer_is_withdrawn_if_the_evidence_clearly_contradicts_it_for_several_crops(
    visits: VisitMaker, strict: Classifier, against: Row, then: str
) -> None:
    assert published(visits, strict, [SURE, *[against] * (PATIENCE - 1), SURE]) == [("start", RED), ("end", RED)]
    expected = [("start", RED), ("update", then), ("end", then)]
    assert published(visits, strict, [SURE, *[against] * PATIENCE]) == expected


def test_two_nearly_equal_classes_do_not_alternate_without_a_threshold(visits: VisitMaker, model: Classifier) -> None:
    rows = [(0.46, 0.44, 0.1)] * 5 + [(0.44, 0.46, 0.1)] * 20
    assert published(visits, model, rows) == [("start", RED), ("end", GREEN)]


def test_each_event_is_complete(visits: VisitMaker, model: Classifier) -> None:
    visit = visits.begin(frame(10), (20, 50, 120, 110))
    visit.zone = "gate"
    add(visit, model, (0.8, 0.15, 0.05), 10, (20, 50, 120, 110))
    start = visits.next_event(visit)
    assert start is not None and visit.started
    assert (start.type, start.ended_at, start.last_frame, start.crops, start.zone) == ("start", None, 10, 1, "gate")
    visit.see(frame(14), (190, 50, 290, 110))
    assert visits.next_event(visit) is None
    end = visits.finish(visit)
    assert (end.type, end.id, end.last_frame, end.direction) == ("end", start.id, 14, "left_to_right")
    assert end.ended_at is not None and end.started_at == start.started_at == NOW


def test_one_thread_can_update_a_visit_while_another_creates_its_events(visits: VisitMaker, model: Classifier) -> None:
    visit = visit_of(visits, model, (0.8, 0.15, 0.05))
    road_bgr = road()
    done = threading.Event()

    def look() -> None:
        for index in range(20_000):
            visit.see(Frame(index, index / 25, road_bgr, "x"), MIDDLE)
        done.set()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        while not done.is_set():
            number, time_s, _ = visit._last
            assert time_s == number / 25
    finally:
        thread.join()


# --- another model ---


def test_answers_of_two_models_are_not_combined(visits: VisitMaker, model: Classifier, tmp_path: Path) -> None:
    visit = visit_of(visits, model, *[(0.9, 0.05, 0.05)] * 9)
    assert visits.next_event(visit) is not None
    other = classifier(tmp_path / "other.onnx", classes=(*CLASSES, "Pollux Gray Van 2019"))
    for index in (20, 21, 22):
        add(visit, other, (0.05, 0.05, 0.1, 0.8), index)
    end = visits.finish(visit)
    assert (end.id, end.name, end.crops) == ("id-0", "Pollux Gray Van 2019", 3)
    assert end.probability == pytest.approx(0.8, abs=1e-5)
    assert (end.first_frame, len(end.top5)) == (0, 4)


def test_a_visit_without_crops_of_the_new_model_ends_with_the_old_models_answer(
    visits: VisitMaker, model: Classifier, tmp_path: Path
) -> None:
    gone = visit_of(visits, model, *[(0.9, 0.05, 0.05)] * 3)
    start = visits.next_event(gone)
    other = classifier(tmp_path / "other.onnx", classes=CLASSES[:2])
    fresh = visit_of(visits, other, (0.1, 0.9))
    end = visits.finish(gone)
    assert start is not None and end.classifier == start.classifier
    assert (end.name, len(end.top5)) == (RED, 3)
    assert visits.finish(fresh).classifier.sha256 != start.classifier.sha256


def test_an_answer_that_the_new_model_does_not_have_is_replaced(visits: VisitMaker, tmp_path: Path) -> None:
    old = classifier(tmp_path / "old.onnx", reject_below=0.5)
    new = classifier(tmp_path / "new.onnx", classes=CLASSES[:2], reject_below=0.5)
    visit = visit_of(visits, old, (0.0, 0.0, 1.0))
    assert visits.next_event(visit) is not None
    names = []
    for index in range(PATIENCE + 1):
        add(visit, new, (0.1, 0.9), 20 + index)
        event = visits.next_event(visit)
        names += [event.name] if event is not None else []
    assert names == [GREEN]


def test_reopening_the_same_model_continues_with_the_evidence(
    visits: VisitMaker, model: Classifier, tmp_path: Path
) -> None:
    visit = visit_of(visits, model, *[(0.9, 0.05, 0.05)] * 3)
    add(visit, classifier(tmp_path / "tiny.onnx"), (0.9, 0.05, 0.05), 9)
    assert visits.finish(visit).crops == 4


# --- direction ---


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
def test_the_direction_is_along_the_axis_of_the_larger_movement(last: Box, direction: str) -> None:
    assert travel_direction((0, 0, 100, 60), last) == direction


def test_the_duration_of_a_visit_does_not_depend_on_clock_adjustments(model: Classifier) -> None:
    times = iter([NOW, NOW - timedelta(hours=3)])
    seconds = iter([100.0, 107.5])
    maker = VisitMaker("gate.mp4", clock=lambda: next(times), monotonic=lambda: next(seconds))
    end = maker.finish(visit_of(maker, model, (0.8, 0.15, 0.05)))
    assert (end.started_at, end.ended_at) == (NOW, NOW + timedelta(seconds=7.5))
