"""The detector's vehicle type limits the possible names: a bus never gets the name of a car."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import BLUE_BGR, RED_BGR, drive_by, film, write_video
from tests.support.detector_toys import red_detector
from tests.support.tiny_model import BLUE, RED, tiny_model
from tests.support.visit_toys import classifier, evidence_of
from twincar_edge.labels import may_be_a, parse_name
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box, Detection
from twincar_edge.runtime.locating.coco import COCO_CLASSES
from twincar_edge.runtime.published import PATIENCE, PublishedAnswer
from twincar_edge.runtime.tracking.tracker import Tracker
from twincar_edge.runtime.watch import Watch


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("Castor Red Sedan 2020", {"car"}),
        ("Castor Red Convertible 2020", {"car"}),
        ("Pollux Blue SUV 2021", {"car", "truck"}),
        ("Ford F-150 Regular Cab 2012", {"car", "truck"}),
        ("Mercedes Benz Sprinter Van 2012", {"car", "truck"}),
        ("Dodge Caravan Minivan 1997", {"car", "truck"}),
        ("MAN TGX Truck 2015", {"car", "truck"}),
        ("Setra S 415 Bus 2010", {"car", "bus"}),
        ("BMW R 1250 GS Motorcycle 2020", {"car", "motorcycle"}),
        ("Audi A4 2012", {"car", "truck"}),  # no body type: it may be a pickup
    ],
)
def test_a_name_belongs_to_certain_vehicle_types(name: str, kinds: set[str]) -> None:
    asked = ("car", "truck", "bus", "motorcycle", "bicycle")
    assert {kind for kind in asked if may_be_a(parse_name(name), kind)} == kinds
    assert may_be_a(parse_name(name), None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return classifier(tmp_path_factory.mktemp("model") / "tiny.onnx", reject_below=0.6)


@pytest.mark.parametrize(
    ("row", "kind", "expected"),
    [
        ((0.9, 0.05, 0.05), "car", RED),
        ((0.9, 0.05, 0.05), None, RED),
        ((0.9, 0.05, 0.05), "truck", "unknown"),
        ((0.9, 0.05, 0.05), "bus", "unknown"),
        ((0.02, 0.03, 0.95), "truck", BLUE),  # an SUV
        ((0.02, 0.03, 0.95), "motorcycle", "unknown"),
        ((0.45, 0.45, 0.1), "car", "Castor"),
        ((0.45, 0.45, 0.1), "truck", "unknown"),  # the model's only Castors are a sedan and a coupe
    ],
)
def test_an_answer_of_another_vehicle_type_is_unknown(
    model: Classifier, row: tuple[float, ...], kind: str | None, expected: str
) -> None:
    evidence = evidence_of(model, row, row, row)
    evidence.vehicle_type = kind
    answer = evidence.answer()
    assert answer.name == expected
    assert (answer.level == "unknown") == (answer.vehicle is None) == (expected == "unknown")
    assert answer.top5[0].probability == pytest.approx(max(row), abs=1e-3)
    assert answer.probability == pytest.approx(max(row) if expected != "Castor" else 0.9, abs=1e-3)


def test_a_bus_can_be_named_by_a_make_of_which_the_model_has_buses(tmp_path: Path) -> None:
    classes = ("Setra S 415 Bus 2010", "Setra S 515 Bus 2015", "Pollux Blue SUV 2021")
    buses = classifier(tmp_path / "buses.onnx", classes=classes, reject_below=0.6)
    evidence = evidence_of(buses, (0.45, 0.45, 0.1))
    evidence.vehicle_type = "bus"
    assert evidence.answer().name == "Setra"
    evidence = evidence_of(buses, (0.05, 0.05, 0.9))
    evidence.vehicle_type = "bus"
    assert evidence.answer().name == "unknown"


def test_a_published_name_is_withdrawn_when_the_vehicle_turns_out_to_be_a_bus(model: Classifier) -> None:
    published = PublishedAnswer()
    evidence = evidence_of(model, *[(0.9, 0.05, 0.05)] * 3)
    first = published.update(evidence)
    assert first is not None
    assert first.name == RED
    evidence.vehicle_type = "bus"
    updates = [published.update(evidence) for _ in range(PATIENCE)]
    assert [update and update.name for update in updates] == [*[None] * (PATIENCE - 1), "unknown"]


# --- over the frames of a vehicle ---

BOX: Box = (100, 50, 200, 110)


def test_the_vehicle_type_of_a_track_depends_on_the_scores_of_all_frames() -> None:
    tracker = Tracker()
    seen = []
    for time, (kind, score) in enumerate([("truck", 0.5), ("car", 0.4), ("car", 0.4), ("truck", 0.2), ("bus", 0.65)]):
        (track,) = tracker.update([Detection(BOX, score, kind=kind)], time / 25)
        seen.append(track.kind)
    assert seen == ["truck", "truck", "car", "car", "car"]


def test_a_track_has_no_vehicle_type_if_the_locator_has_no_classes() -> None:
    tracker = Tracker()
    for time in range(3):
        (track,) = tracker.update([Detection(BOX)], time / 25)
    assert track.kind is None


# --- through the whole loop ---


def watched(tmp_path: Path, kind: str | None, **options: object) -> tuple[list[Event], Watch]:
    """Watch a red car pass that the detector gives another type."""
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))
    model = Classifier(tiny_model(tmp_path / "tiny.onnx"), ep="cpu", threads=1)
    detector = None
    if kind is not None:
        named = ((COCO_CLASSES.index(kind), 0.9),)
        detector = red_detector(tmp_path / "detector.onnx", named, named)
    camera = CameraConfig(name="gate", source=str(clip), **options)  # type: ignore[arg-type]
    config = WatchConfig(cameras=(camera,), detector=detector, ep="cpu", threads=1, keep=True)
    with Watch(config, classifier=model) as run:
        return list(run.run().results), run


@pytest.mark.parametrize(
    ("kind", "name"), [("car", RED), ("bus", "unknown"), ("motorcycle", "unknown"), ("truck", "unknown"), (None, RED)]
)
def test_a_vehicle_of_any_type_is_one_visit_with_its_vehicle_type(tmp_path: Path, kind: str | None, name: str) -> None:
    (event,), run = watched(tmp_path, kind)
    assert (event.name, event.vehicle_type) == (name, kind)
    assert event.level == ("unknown" if name == "unknown" else "year")
    status = run.status()
    assert status.vehicle_types == {("gate", kind or "unknown"): 1}
    assert status.visits == {("gate", event.level): 1}


def test_objects_outside_the_vehicle_classes_of_coco_have_names_but_no_vehicle_type(tmp_path: Path) -> None:
    """Seen from straight above, a car is detected as a cell phone."""
    (event,), _ = watched(tmp_path, "cell phone", detect_classes=("any",))
    assert (event.name, event.vehicle_type) == (RED, None)


def test_a_bicycle_is_a_visit_if_configured(tmp_path: Path) -> None:
    assert watched(tmp_path, "bicycle")[0] == []
    (event,), _ = watched(tmp_path, "bicycle", detect_classes=("car", "bicycle"))
    assert (event.name, event.vehicle_type) == ("unknown", "bicycle")


def test_a_vehicle_in_a_single_image_has_its_vehicle_type(tmp_path: Path) -> None:
    image = np.full((96, 128, 3), 90, np.uint8)
    image[30:70, 30:90] = BLUE_BGR
    image[40:56, 48:64] = RED_BGR
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    named = ((COCO_CLASSES.index("bus"), 0.9),)
    detector = red_detector(tmp_path / "detector.onnx", named, named)
    camera = CameraConfig(source=str(tmp_path / "photo.png"))
    config = WatchConfig(cameras=(camera,), detector=detector, ep="cpu", threads=1, keep=True)
    with Watch(config, classifier=Classifier(tiny_model(tmp_path / "tiny.onnx"), ep="cpu", threads=1)) as run:
        results = run.run().results
    assert results
    assert {(event.name, event.vehicle_type) for event in results} == {("unknown", "bus")}
