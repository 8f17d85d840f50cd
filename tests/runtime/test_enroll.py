"""Enrolled classes are recognized, do not change other answers, and are written only if the checks pass."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_model import BLUE, CLASSES, RED, tiny_model, with_manifest, with_metadata_entries
from twincar_edge.bundled import default_model
from twincar_edge.cli import main
from twincar_edge.enrolled import ENROLLED_KEY, read_enrolled
from twincar_edge.errors import GateError, InputError, ModelError, TwincarError
from twincar_edge.files import sha256
from twincar_edge.held_out import HELD_OUT_KEY, HeldOut
from twincar_edge.images import write_image
from twincar_edge.manifest import read_manifest
from twincar_edge.onnx_metadata import DIGEST_KEY, read_metadata
from twincar_edge.prototypes import read_prototypes
from twincar_edge.runtime.enroll import EnrollConfig, EnrollReport, enroll, read_class_folders
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.synthetic import draw_twin_car

YELLOW = "Rigel Yellow Sedan 2024"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def plain(blue: int, green: int, red: int) -> NDArray[np.uint8]:
    return np.full((40, 60, 3), (blue, green, red), np.uint8)


def yellows(count: int = 4) -> list[NDArray[np.uint8]]:
    return [plain(0, 200 + place, 200) for place in range(count)]


def summary(*colors: tuple[float, float, float], images: int = 1000) -> dict[str, str]:
    """A summary of held-out pictures with these colors in RGB order."""
    unit = np.array(colors, np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return {HELD_OUT_KEY: HeldOut(images, len(colors), unit).to_json()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    source = tiny_model(tmp_path / "model.onnx", golden=True, familiar=True, reject_below=0.6)
    return with_metadata_entries(source, source, summary((1, 0.1, 0), (0, 1, 0.2), (0.2, 0, 1)))


def run(
    model: Path, output: Path, classes: dict[str, list[NDArray[np.uint8]]] | None = None, **options: object
) -> EnrollReport:
    config = EnrollConfig(output, model, classes if classes is not None else {YELLOW: yellows()}, ep="cpu", **options)  # type: ignore[arg-type]
    return enroll(config, lambda: NOW)


def test_an_enrolled_class_is_recognized_and_other_answers_stay_the_same(model: Path, tmp_path: Path) -> None:
    report = run(model, tmp_path / "new.onnx")
    assert (report.enrolled, report.held_out, report.held_out_changed) == ((YELLOW,), 1000, 0)
    assert [(one.images, one.recognized) for one in report.classes] == [(4, 4)]
    old, new = Classifier(model), Classifier(tmp_path / "new.onnx")
    assert old(plain(0, 201, 200)).name == "Castor"
    prediction = new(plain(0, 201, 200))
    assert (prediction.name, prediction.level, prediction.make) == (YELLOW, "year", "Rigel")
    assert prediction.probability > 0.9 and prediction.label == len(CLASSES)
    others = [plain(0, 0, 255), plain(255, 0, 0), plain(128, 128, 128), plain(0, 60, 200)]
    for before, after in zip(old(others), new(others), strict=True):
        assert (after.name, after.level, after.label) == (before.name, before.level, before.label)
        assert after.probability == pytest.approx(before.probability, abs=1e-6)
        assert after.familiarity == before.familiarity


def test_the_graph_and_its_other_metadata_stay_the_same(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "new.onnx")
    before, after = read_metadata(model), read_metadata(tmp_path / "new.onnx")
    assert after.pop(DIGEST_KEY) != before.pop(DIGEST_KEY)
    assert {key: text for key, text in after.items() if key != ENROLLED_KEY} == before
    batch = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
    one, other = open_session(model, ep="cpu"), open_session(tmp_path / "new.onnx", ep="cpu")
    np.testing.assert_array_equal(one.run(batch), other.run(batch))
    np.testing.assert_array_equal(one.run(batch), other.judge(batch)[0][:, : len(CLASSES)])
    assert other.judge(batch[:0])[0].shape == (0, len(CLASSES) + 1)


def test_the_file_records_the_origin_of_a_class_and_the_class_can_be_removed(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "new.onnx")
    run(
        tmp_path / "new.onnx",
        tmp_path / "two.onnx",
        {"Rigel Pink Sedan 2024": [plain(200, 90, 250 - i) for i in range(3)]},
    )
    enrolled = read_enrolled(tmp_path / "two.onnx", read_manifest(model), read_prototypes(model))
    assert enrolled is not None
    assert enrolled.names == (YELLOW, "Rigel Pink Sedan 2024")
    assert (enrolled.classes[0].images, enrolled.classes[0].enrolled_at) == (4, NOW)
    assert enrolled.classes[0].source_sha256 == sha256(model)
    assert enrolled.classes[1].source_sha256 == sha256(tmp_path / "new.onnx")
    report = run(tmp_path / "two.onnx", tmp_path / "two.onnx", {}, remove=enrolled.names)
    assert (report.removed, report.enrolled) == (enrolled.names, ())
    assert read_metadata(tmp_path / "two.onnx") == read_metadata(model)


def test_pictures_of_different_cars_under_one_name_are_refused_and_nothing_is_written(
    model: Path, tmp_path: Path
) -> None:
    mixed = {YELLOW: [plain(0, 200, 200), plain(200, 200, 0), plain(200, 0, 200), plain(120, 130, 120)]}
    with pytest.raises(GateError, match=f"only 1 of 4 pictures of '{YELLOW}' are recognized by the others"):
        run(model, tmp_path / "new.onnx", mixed)
    assert not (tmp_path / "new.onnx").exists()
    report = run(model, tmp_path / "new.onnx", mixed, unchecked=True)
    assert len(report.faults) == 1


def test_a_class_that_changes_answers_of_trained_classes_is_refused(model: Path, tmp_path: Path) -> None:
    near = with_metadata_entries(model, tmp_path / "near.onnx", summary((1, 1, 0), (1, 1, 0), (1, 0, 0), images=300))
    with pytest.raises(GateError, match=r"answers for 2 of 300 held-out pictures change \(limit 0.5%\)"):
        run(near, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()
    many = with_metadata_entries(model, near, summary((1, 1, 0), (1, 1, 0), (1, 0, 0), images=400))
    assert run(many, tmp_path / "new.onnx").held_out_changed == 2


def no_embedding(model: Path) -> Path:
    return tiny_model(model, golden=True)


def no_summary(model: Path) -> Path:
    return tiny_model(model, golden=True, familiar=True)


def damaged(model: Path) -> Path:
    run(model, model, {"Rigel Old Sedan 2020": yellows()})
    document = json.loads(read_metadata(model)[ENROLLED_KEY])
    document["means"] = document["means"].replace("A", "B")
    return with_metadata_entries(model, model, {ENROLLED_KEY: json.dumps(document)})


def of_another_model(model: Path) -> Path:
    run(model, model, {"Rigel Old Sedan 2020": yellows()})
    training = read_manifest(model).training.model_copy(update={"checkpoint_sha256": "1" * 64})
    return with_manifest(model, model, training=training)


@pytest.mark.parametrize(
    ("change", "classes", "remove", "error", "message"),
    [
        (no_embedding, {YELLOW: yellows()}, (), ModelError, "has no embedding output with prototypes"),
        (no_summary, {YELLOW: yellows()}, (), InputError, r"no summary of held-out pictures.*`unchecked=True`"),
        (damaged, {YELLOW: yellows()}, (), ModelError, "means are damaged: enroll them again"),
        (of_another_model, {YELLOW: yellows()}, (), ModelError, "enrolled into another model"),
        (None, {RED: yellows()}, (), InputError, f"already has the class '{RED}'"),
        (None, {YELLOW: yellows(1)}, (), InputError, r"only one picture, which cannot be checked.*`unchecked=True`"),
        (None, {YELLOW: []}, (), InputError, "1 to 1000 pictures"),
        (
            None,
            {YELLOW: [*yellows(), plain(0, 0, 0)]},
            (),
            InputError,
            f"picture 5 of '{YELLOW}' does not look like a car",
        ),
        (None, {" ": yellows()}, (), InputError, "class name"),
        (None, {}, (), InputError, "nothing to do"),
        (None, {}, (BLUE,), InputError, "is a trained class: only enrolled"),
        (None, {}, (YELLOW,), InputError, "has no enrolled class"),
    ],
)
def test_unusable_enrollment_is_a_one_line_error_and_writes_nothing(
    change: Callable[[Path], Path] | None,
    classes: dict[str, list[NDArray[np.uint8]]],
    remove: tuple[str, ...],
    error: type[TwincarError],
    message: str,
    model: Path,
    tmp_path: Path,
) -> None:
    if change is not None:
        change(model)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message) as caught:
        run(model, tmp_path / "new.onnx", classes, remove=remove)
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_file_is_not_opened_at_all(model: Path, tmp_path: Path) -> None:
    for change in (damaged, of_another_model):
        with pytest.raises(ModelError, match="enroll them"):
            Classifier(change(with_metadata_entries(model, tmp_path / f"{change.__name__}.onnx", {})))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Drawn cars of two classes, one folder per class, and a folder that has no class name yet."""
    for name, label in (("Rigel Nova Sedan 2024", 0), ("Rigel Vega Pickup 2024", 10), ("cluster-03", 5)):
        (tmp_path / "named" / name).mkdir(parents=True)
        for number in range(6):
            drawn = draw_twin_car(label, np.random.default_rng([label, number]), (520, 400))
            left, top, right, bottom = drawn.box_xyxy
            path = tmp_path / "named" / name / f"{number}.png"
            assert cv2.imwrite(str(path), drawn.image_bgr[top:bottom, left:right])
    return tmp_path / "named"


def test_folders_become_classes_of_the_bundled_model_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["Rigel Nova Sedan 2024", "Rigel Vega Pickup 2024"]
    assert list(read_class_folders(folder)) == names
    left = {name: (folder / name / "5.png").rename(tmp_path / f"{name}.png") for name in names}
    output = tmp_path / "new.onnx"
    with pytest.raises(SystemExit) as ended:
        main(["enroll", "--from", str(folder), "-o", str(output), "--unchecked", "--reach", "2"])
    assert ended.value.code == 0
    assert f"wrote {output}: 2 enrolled classes\n" in capsys.readouterr().out
    classifier = Classifier(output)
    assert {name: classifier(path).name for name, path in left.items()} == {name: name for name in names}
    assert classifier.manifest == read_manifest(default_model())
    with pytest.raises(SystemExit):
        main(["inspect", str(output), "--json"])
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["enrolled"]] == names


def test_a_running_watch_loads_the_new_class_on_sighup(model: Path, tmp_path: Path) -> None:
    arriving = tmp_path / "arriving"
    arriving.mkdir()
    command = [sys.executable, "-m", "twincar_edge", "watch", str(arriving), "--model", str(model), "--locate", "whole"]
    command += ["--state", str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            write_image(arriving / "1.png", plain(0, 201, 200))
            assert json.loads(process.stdout.readline())["name"] == "Castor"
            run(model, model)
            process.send_signal(signal.SIGHUP)
            logged = next(line for line in process.stderr if "classes added" in line or "refused" in line)
            assert "4 classes): 1 classes added, 0 removed" in logged
            write_image(arriving / "2.png", plain(0, 201, 200))
            assert json.loads(process.stdout.readline())["name"] == YELLOW
        finally:
            process.kill()
