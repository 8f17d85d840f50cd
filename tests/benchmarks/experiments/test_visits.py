"""The visits experiment counts passes and compares answers, on drawn clips and with a model that names colors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR, SIZE_WH, Car, drive_by, film, write_video
from tests.support.experiments import run_experiment
from tests.support.tiny_model import BLUE, CLASSES, GREEN, RED, tiny_model
from twincar_edge.benchmarks.experiments.crop_by_crop import watch_clip
from twincar_edge.benchmarks.experiments.visits import VisitsReport, measure_visits
from twincar_edge.benchmarks.report import bootstrap_interval
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping
from twincar_edge.runtime.evidence import CUT_WEIGHT
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.truth import Pass, read_truth
from twincar_edge.runtime.watch import CameraConfig, WatchConfig, watch

PICTURES = {"red.png": RED_BGR, "green.png": GREEN_BGR, "blue.png": BLUE_BGR}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier(open_session(model, ep="cpu", threads=1))


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Write a clip of cars and its truth."""

    def write(cars: Sequence[Car], passes: Sequence[dict[str, object]], name: str = "gate") -> tuple[Path, Path]:
        video = write_video(tmp_path / f"{name}.mp4", film(cars, max(car.last for car in cars) + 40))
        truth = video.with_suffix(".json")
        truth.write_text(json.dumps({"passes": passes}))
        return video, truth

    return write


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    """A red, a green and a blue picture with their labels."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, color in PICTURES.items():
        cv2.imwrite(str(folder / name), np.full((40, 60, 3), color, np.uint8))
    rows = "".join(f"{name},{label}\n" for label, name in enumerate(PICTURES))
    (folder / "labels.csv").write_text("filename,label\n" + rows)
    (folder / "class_mapping.json").write_text(ClassMapping(CLASSES).to_json())
    return open_dataset(folder)


def pass_record(car: Car, label: int, **more: object) -> dict[str, object]:
    return {"label": label, "first_frame": car.first, "last_frame": car.last, **more}


def repainted(before_bgr: tuple[int, int, int], after_bgr: tuple[int, int, int], first: int, at: int) -> list[Car]:
    """Return a car that crosses the picture in 30 frames and changes its color at frame `at`."""
    whole = drive_by(before_bgr, first)
    x = float((whole.box(at) or (0,))[0])
    return [
        Car(before_bgr, first, at - 1, whole.start, float((whole.box(at - 1) or (0,))[0])),
        Car(after_bgr, at, whole.last, x, whole.end),
    ]


def test_passes_are_counted_as_found_once_doubled_missed_or_extra(
    clip: Callable[..., tuple[Path, Path]], model: Path
) -> None:
    first, second, third = (drive_by(RED_BGR, start) for start in (10, 80, 150))
    both = {"label": 0, "first_frame": 60, "last_frame": 200}  # one long pass in the truth, but two in the clip
    files = clip(
        [first, second, third], [pass_record(first, 0), both, {"label": 0, "first_frame": 300, "last_frame": 310}]
    )
    alone = clip([first, second], [pass_record(first, 2)], "alone")
    found = measure_visits([files, alone], model, threads=1)
    total = found.total
    assert (total.passes, total.once, total.doubled, total.missed, total.extra) == (4, 2, 1, 1, 1)
    assert total.verdicts == {"right": 1, "wrong name": 1}
    assert [one.name for one in found.clips] == ["gate.mp4", "alone.mp4"]
    assert [(one.passes.passes, one.passes.once) for one in found.clips] == [(3, 1), (1, 1)]
    assert found.top1 == 0.5


def test_a_visit_is_compared_with_its_single_crops(
    clip: Callable[..., tuple[Path, Path]], classifier: Classifier, model: Path
) -> None:
    cars = repainted(GREEN_BGR, RED_BGR, 10, at=19)
    whole = {"label": 0, "first_frame": 10, "last_frame": cars[-1].last}
    plain = drive_by(BLUE_BGR, 80)
    files = clip([*cars, plain], [whole, pass_record(plain, 2)])
    one, other = watch_clip(files[0], read_truth(files[1], classifier.manifest.class_mapping), classifier).found
    names = [CLASSES[label] for label in one.labels]
    assert names[0] == GREEN and names[-1] == RED
    assert names == sorted(names, key=[GREEN, RED].index), "crops are not in the order of the frames"
    assert CLASSES[one.best] == RED and CLASSES[one.probabilities.argmax()] == RED
    assert {CLASSES[label] for label in other.labels} == {BLUE}

    found = measure_visits([files], model, threads=1)
    share = names.count(RED) / len(names)
    assert found.top1 == 1 and found.crops == len(names) + len(other.crops)
    assert found.singles["mean crop"].top1 == pytest.approx((share + 1) / 2)
    assert found.pooled_top1 == pytest.approx((names.count(RED) + len(other.crops)) / found.crops)
    assert (found.singles["first crop"].top1, found.singles["best crop"].top1) == (0.5, 1)
    mean = found.singles["mean crop"]
    assert mean.gain == pytest.approx((1 - share) / 2)
    assert mean.low <= mean.gain <= mean.high
    assert "picture" not in found.singles and set(found.levels) == {"visits"}


def test_crops_cut_by_the_border_are_counted_separately_and_weighted_less(
    clip: Callable[..., tuple[Path, Path]], classifier: Classifier, model: Path
) -> None:
    car = drive_by(RED_BGR, 10)
    files = clip([car], [pass_record(car, 0)])
    (one,) = watch_clip(files[0], read_truth(files[1], classifier.manifest.class_mapping), classifier).found
    cut = [crop.cut for crop in one.crops]
    assert cut[0] and cut[-1] and not all(cut)
    assert one.with_cut_weight(CUT_WEIGHT) == pytest.approx(one.probabilities, abs=1e-6)

    crops = [replace(crop, probabilities=np.eye(3, dtype=np.float32)[1 if crop.cut else 0]) for crop in one.crops]
    both = replace(one, crops=tuple(crops))
    assert [int(both.with_cut_weight(factor).argmax()) for factor in (0.0, 1e-6, 1e6)] == [0, 0, 1]
    only_cut = replace(one, crops=tuple(crop for crop in crops if crop.cut))
    assert only_cut.with_cut_weight(0.0).argmax() == 1

    found = measure_visits([files], model, threads=1)
    shown = {figures.shows: figures for figures in found.by_shown}
    assert shown["whole"].crops == cut.count(False) and sum(figures.crops for figures in found.by_shown) == len(cut)
    assert sum(figures.weight for figures in found.by_shown) == pytest.approx(1)
    assert shown["whole"].weight > 0.8 and shown["cut, less"].weight < 0.05
    assert set(found.cut_weights.values()) == {1.0}


def test_recording_crops_does_not_change_the_events(
    clip: Callable[..., tuple[Path, Path]], classifier: Classifier
) -> None:
    cars = [*repainted(GREEN_BGR, BLUE_BGR, 10, at=22), drive_by(RED_BGR, 80, to_the_right=False)]
    video, _ = clip(cars, [])
    config = WatchConfig(cameras=(CameraConfig(name="clip", source=str(video)),), keep=True)
    plain = watch(config, classifier=classifier).results
    recorded = watch_clip(video, [], classifier).score.extra
    assert len(plain) == 2
    own = {"id", "started_at", "ended_at", "course"}
    assert [one.model_dump(exclude=own) for one in recorded] == [one.model_dump(exclude=own) for one in plain]
    # The batch size changes the last digits of the probabilities.
    courses = [[(lead.frame, lead.name, round(lead.probability, 3)) for lead in one.course] for one in recorded]
    assert courses == [[(lead.frame, lead.name, round(lead.probability, 3)) for lead in one.course] for one in plain]


def test_visits_are_compared_with_the_original_images(
    clip: Callable[..., tuple[Path, Path]], model: Path, pictures: Dataset
) -> None:
    first, second, third = (drive_by(RED_BGR, start) for start in (10, 80, 150))
    passes = [pass_record(first, 0, filename="red.png"), pass_record(second, 0, filename="blue.png")]
    found = measure_visits(
        [clip([first, second, third], [*passes, pass_record(third, 0, filename="red.png")])], model, pictures
    )
    picture = found.singles["picture"]
    assert (found.top1, picture.top1, picture.gain) == (1, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert picture.low <= picture.gain <= picture.high
    assert found.levels["visits"][0].levels["year"].right == 1
    assert found.levels["pictures"][0].levels["year"].right == pytest.approx(2 / 3)


def test_the_bootstrap_interval_matches_the_statistic() -> None:
    assert bootstrap_interval([0.25] * 9, np.mean) == (0.25, 0.25)
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_interval(values.tolist(), np.mean)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)
    assert bootstrap_interval(values.tolist(), np.median) != (low, high)


@pytest.mark.parametrize(
    ("record", "with_pictures", "message"),
    [
        ({"name": "Lada Niva SUV 1980"}, False, "'Lada Niva SUV 1980', which tiny does not know"),
        ({}, True, "has no image .filename. for pass 0"),
        ({"filename": "white.png"}, True, "'white.png'"),
    ],
)
def test_an_invalid_ground_truth_fails_before_the_run(
    tmp_path: Path, model: Path, pictures: Dataset, record: dict[str, object], with_pictures: bool, message: str
) -> None:
    truth = tmp_path / "gate.json"
    truth.write_text(json.dumps({"passes": [{"label": 0, "first_frame": 0, "last_frame": 9, **record}]}))
    with pytest.raises(InputError, match=message) as failure:
        measure_visits([(tmp_path / "absent.mp4", truth)], model, pictures if with_pictures else None)
    assert "\n" not in str(failure.value)


def test_a_clip_without_passes_found_once_is_an_error(clip: Callable[..., tuple[Path, Path]], model: Path) -> None:
    tiny = Car(RED_BGR, 10, 40, 0, SIZE_WH[0], size_wh=(2, 2))
    with pytest.raises(InputError, match="no pass was found exactly once"):
        measure_visits([clip([tiny], [pass_record(tiny, 0)])], model)


def test_the_command_prints_and_writes_its_report_and_reports_errors(
    clip: Callable[..., tuple[Path, Path]], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    car = drive_by(RED_BGR, 10)
    video, truth = clip([car], [pass_record(car, 0)])
    output = tmp_path / "visits.json"
    options = ["--model", model, "--threads", "1"]
    assert run_experiment("visits", video, *options, "-o", output) == 0
    printed = capsys.readouterr()
    found = VisitsReport.model_validate_json(output.read_text())
    assert printed.out == found.to_markdown()
    assert "1 of 1 passes found exactly once (100.00%), 0 doubled, 0 missed, 0 extra" in printed.out
    assert "| mean crop | 100.00% | +0.00 |" in printed.out
    assert printed.err.startswith("gate.mp4: 1 of 1 passes right")

    truth.unlink()
    assert run_experiment("visits", video, *options, "-o", str(tmp_path / "none.json")) == 2
    assert capsys.readouterr().err.startswith("error: cannot read the ground truth")
    assert not (tmp_path / "none.json").exists()
    assert run_experiment("visits", video, "--truth", "one.json", "--truth", "two.json", *options) == 2
    assert "1 clips and 2 ground-truth files: give one for each clip" in capsys.readouterr().err


def test_a_truth_can_name_the_picture_of_a_pass(tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    path.write_text(json.dumps({"passes": [{"label": 0, "first_frame": 1, "last_frame": 2, "filename": "a.jpg"}]}))
    assert read_truth(path, ClassMapping(CLASSES)) == [Pass(RED, 1, 2, "a.jpg")]
