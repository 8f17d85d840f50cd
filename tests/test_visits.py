from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tests.clips import road
from tests.tiny_model import BLUE, GREEN, RED, tiny_model
from twincar_edge.runtime.boxes import Box
from twincar_edge.runtime.classifier import Classifier
from twincar_edge.runtime.events import ClassifierRecord, Event, NamedProbability
from twincar_edge.runtime.session import open_session
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.visits import Evidence, VisitMaker, travel_direction

DOCUMENT = Path(__file__).parent.parent / "docs" / "events.md"
NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
MIDDLE: Box = (100, 50, 200, 110)


def probabilities(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def maker(tmp_path: Path, **options: object) -> VisitMaker:
    model = tiny_model(tmp_path / "tiny.onnx", **options)  # type: ignore[arg-type]
    times = iter(NOW + timedelta(seconds=i) for i in range(100))
    ids = iter(f"id-{i}" for i in range(100))
    return VisitMaker("gate.mp4", Classifier(open_session(model, ep="cpu", threads=1)), clock=lambda: next(times),
                      new_id=lambda: next(ids))  # fmt: skip


def frame(index: int = 0) -> Frame:
    return Frame(index, index / 25, road(), "gate.mp4")


def evidence(*crops: tuple[Box, np.ndarray]) -> Evidence:
    gathered = Evidence(frame(), crops[0][0], NOW)
    for index, (box, row) in enumerate(crops):
        gathered.see(frame(index), box)
        gathered.add(frame(index), box, 1.0, row)
    return gathered


def test_crops_that_agree_are_as_sure_as_one_of_them_however_many() -> None:
    row = probabilities(0.7, 0.2, 0.1)
    assert evidence(*[(MIDDLE, row)] * 50).probabilities == pytest.approx(row, abs=1e-5)


def test_the_answer_is_the_geometric_mean_of_what_the_crops_say() -> None:
    rows = [probabilities(0.6, 0.3, 0.1), probabilities(0.2, 0.5, 0.3)]
    mean = np.sqrt(rows[0] * rows[1])
    assert evidence(*[(MIDDLE, row) for row in rows]).probabilities == pytest.approx(mean / mean.sum(), abs=1e-5)


def test_large_crops_outweigh_small_ones() -> None:
    small, large = (100, 50, 120, 62), (90, 40, 210, 112)
    result = evidence(*[(small, probabilities(0.1, 0.9))] * 5, (large, probabilities(0.9, 0.1))).probabilities
    assert result[0] > 0.8


def test_crops_that_the_border_cuts_weigh_little_and_are_not_shown() -> None:
    cut, whole = (0, 50, 160, 130), (100, 50, 220, 130)
    gathered = evidence(
        (cut, probabilities(0.1, 0.9)), (whole, probabilities(0.8, 0.2)), (cut, probabilities(0.1, 0.9))
    )
    assert gathered.probabilities[0] > 0.6
    assert (gathered.best_box, gathered.best_frame) == (whole, 1)
    assert gathered.best_crop.shape == (80, 120, 3)


def test_a_class_that_one_crop_rules_out_is_not_ruled_out_for_ever() -> None:
    sure_of_other = evidence((MIDDLE, probabilities(0.0, 1.0)), *[(MIDDLE, probabilities(0.99, 0.01))] * 20)
    assert sure_of_other.probabilities[0] > 0.9


def test_the_best_crop_is_a_copy_and_survives_its_frame() -> None:
    picture = road()
    gathered = Evidence(Frame(0, 0.0, picture, "x"), MIDDLE, NOW)
    gathered.add(Frame(0, 0.0, picture, "x"), MIDDLE, 1.0, probabilities(1.0, 0.0))
    picture[:] = 0
    assert gathered.best_crop.mean() > 50


def test_a_visit_says_what_when_where_and_by_which_model(tmp_path: Path) -> None:
    visits = maker(tmp_path)
    gathered = visits.begin(frame(10), (20, 50, 120, 110))
    for index, left in ((10, 20), (11, 60), (12, 150)):
        gathered.see(frame(index), (left, 50, left + 100, 110))
        gathered.add(frame(index), (left, 50, left + 100, 110), 1.0, probabilities(0.8, 0.15, 0.05))
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
    visits = maker(tmp_path, reject_below=0.9)
    gathered = visits.begin(frame(), MIDDLE)
    gathered.add(frame(), MIDDLE, 1.0, probabilities(0.8, 0.15, 0.05))
    visit = visits.finish(gathered)
    assert (visit.name, visit.make, visit.model, visit.body_type, visit.year) == ("unknown", None, None, None, None)
    assert visit.probability == pytest.approx(0.8, abs=1e-5)
    assert visit.top5[0].name == RED


def test_a_single_image_has_no_time_and_its_name_stands_in_the_event(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    visits = VisitMaker("inbox", Classifier(open_session(model, ep="cpu", threads=1)), stills=True)
    gathered = visits.begin(Frame(4, 0.0, road(), "car_4.jpg"), MIDDLE)
    gathered.add(frame(4), MIDDLE, 1.0, probabilities(0.8, 0.15, 0.05))
    visit = visits.finish(gathered)
    assert (visit.image, visit.first_frame, visit.first_time_s, visit.last_time_s) == ("car_4.jpg", 4, None, None)
    assert re.fullmatch(r"[0-9a-f-]{36}", visit.id)
    assert visit.started_at.tzinfo is not None


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


def example() -> dict[str, object]:
    """The example event of docs/events.md."""
    found = re.search(r"```json\n(\{\n.*?\n\})\n```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    result = json.loads(found[1])
    assert isinstance(result, dict)
    return result


def test_an_event_is_one_line_of_json_that_reads_back_to_the_same_visit(tmp_path: Path) -> None:
    visits = maker(tmp_path)
    gathered = visits.begin(frame(), MIDDLE)
    gathered.add(frame(), MIDDLE, 1.0, probabilities(0.8, 0.15, 0.05))
    visit = visits.finish(gathered)
    line = visit.to_json()
    assert "\n" not in line
    assert Event.model_validate_json(line) == visit
    assert json.loads(line)["started_at"] == "2025-03-01T12:00:00Z"


def test_events_cannot_be_changed_and_need_a_time_zone() -> None:
    visit = Event.model_validate(example())
    with pytest.raises(ValidationError):
        visit.name = RED  # type: ignore[misc]
    with pytest.raises(ValidationError, match="timezone"):
        Event.model_validate({**example(), "started_at": "2025-03-01T12:00:00"})
    with pytest.raises(ValidationError, match="plate"):
        Event.model_validate({**example(), "plate": "B-TC 1"})


def test_the_document_describes_every_field_and_its_example_and_schema_are_true() -> None:
    text = DOCUMENT.read_text("utf-8")
    described = re.findall(r"^\| `([a-z0-9_.]+)` \|", text, re.MULTILINE)
    fields = list(Event.model_fields)
    parts = {"top5": NamedProbability, "classifier": ClassifierRecord}
    nested = [f"{name}.{inner}" for name, model in parts.items() for inner in model.model_fields]
    assert sorted(described) == sorted(fields + nested)
    assert list(example()) == fields
    assert json.loads(Event.model_validate(example()).to_json()) == example()
    schema = re.search(r"```json schema\n(.*?)\n```", text, re.DOTALL)
    assert schema is not None
    assert json.loads(schema[1]) == Event.model_json_schema(mode="serialization")
