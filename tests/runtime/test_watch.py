from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR, Car, Image, as_frames, drive_by, film, write_video
from tests.support.tiny_model import BLUE, GREEN, RED, tiny_model, with_manifest
from twincar_edge.bundled import demo_clip
from twincar_edge.cli.watch import command
from twincar_edge.errors import InputError, ModelError
from twincar_edge.manifest import read_manifest
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.locating.boxes import iou
from twincar_edge.runtime.locating.zones import Zone
from twincar_edge.runtime.monitoring.durations import BUCKETS_S
from twincar_edge.runtime.monitoring.stages import Stages
from twincar_edge.runtime.sinks import JsonLines
from twincar_edge.runtime.sources import Frame, FrameSource, Source, open_source
from twincar_edge.runtime.watch import CameraConfig, LiveFrame, LiveTrack, WatchConfig, WatchSummary, watch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier(open_session(model, ep="cpu", threads=1))


def run(
    classifier: Classifier, pictures: Sequence[Image], fps: float = 25.0, batch: int = 8, **camera: object
) -> WatchSummary:
    config = WatchConfig(cameras=(CameraConfig(**camera),), batch=batch, keep=True)  # type: ignore[arg-type]
    return watch(config, sources=frames(pictures, fps), classifier=classifier)


def frames(pictures: Iterable[Image], fps: float = 25.0) -> dict[str, Source]:
    """The only camera of `WatchConfig()`, with these frames."""
    return {"camera": FrameSource(as_frames(pictures, fps))}


def passes(summary: WatchSummary) -> list[tuple[str, str]]:
    return [(visit.name, visit.direction) for visit in summary.results]


# --- the loop, on arrays ---


def test_each_car_that_passes_is_one_visit(classifier: Classifier) -> None:
    cars = [drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 60, to_the_right=False), drive_by(GREEN_BGR, 110)]
    summary = run(classifier, film(cars, 160))
    assert passes(summary) == [(RED, "left_to_right"), (BLUE, "right_to_left"), (GREEN, "left_to_right")]
    assert (summary.frames, summary.visits, summary.cameras[0].skipped) == (160, 3, 0)
    for visit, car in zip(summary.results, cars, strict=True):
        assert abs(visit.first_frame - car.first) <= 4
        assert abs(visit.last_frame - car.last) <= 4
        assert visit.first_time_s == pytest.approx(visit.first_frame / 25)
        assert 10 < visit.crops <= 30
        truth = car.box(visit.best_frame)
        assert truth is not None
        assert iou(visit.box_xyxy, truth) > 0.8


def test_two_simultaneous_cars_in_two_lanes_are_two_visits(classifier: Classifier) -> None:
    cars = [Car(RED_BGR, 10, 40, -90, 320, y=30), Car(BLUE_BGR, 14, 44, 320, -90, y=90)]
    assert sorted(passes(run(classifier, film(cars, 70)))) == sorted([(RED, "left_to_right"), (BLUE, "right_to_left")])


def test_a_car_that_stops_for_seconds_is_one_visit(classifier: Classifier) -> None:
    car = [Car(RED_BGR, 5, 20, -90, 115), Car(RED_BGR, 21, 120, 115, 115), Car(RED_BGR, 121, 136, 115, 330)]
    assert passes(run(classifier, film(car, 170), fps=10.0)) == [(RED, "left_to_right")]


def test_parked_cars_and_lamps_give_no_visits(classifier: Classifier) -> None:
    parked = Car(RED_BGR, 0, 200, 20, 20)
    lamp = Car((250, 250, 250), 30, 200, 200, 200)
    assert passes(run(classifier, film([parked, lamp], 200))) == []


def test_a_parked_car_that_leaves_is_one_visit_without_a_ghost(classifier: Classifier) -> None:
    cars = [Car(RED_BGR, 0, 20, 100, 100), Car(RED_BGR, 21, 45, 100, 330)]
    assert passes(run(classifier, film(cars, 80))) == [(RED, "left_to_right")]


@pytest.mark.parametrize("begin", [315, 630, 675])
def test_a_run_that_starts_while_a_vehicle_passes_misses_no_later_vehicle(classifier: Classifier, begin: int) -> None:
    """The first frame becomes the background although a vehicle is in it, so the road below it must be learned."""
    truth = json.loads(demo_clip().with_suffix(".json").read_text("utf-8"))["passes"]
    with open_source(str(demo_clip())) as clip:
        shown = [frame.image_bgr for frame in clip if begin <= frame.index < begin + 400]
    seen = [(begin + visit.first_frame, begin + visit.last_frame) for visit in run(classifier, shown).results]
    for one in truth:
        if begin < one["first_frame"] and one["last_frame"] < begin + 395:
            common = [min(one["last_frame"], last) - max(one["first_frame"], first) for first, last in seen]
            assert sum(both > 0.7 * (one["last_frame"] - one["first_frame"]) for both in common) == 1, (one, seen)


def test_cars_still_in_view_at_the_end_become_visits(classifier: Classifier) -> None:
    assert passes(run(classifier, film([drive_by(BLUE_BGR, 10, 60)], 50))) == [(BLUE, "left_to_right")]


def test_a_zone_gives_one_visit_per_car_in_it(classifier: Classifier) -> None:
    cars = [drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 70)]
    zone = Zone(points=((120, 50), (220, 50), (220, 120), (120, 120)))
    summary = run(classifier, film(cars, 120), locate="zone", zones=(zone,))
    assert passes(summary) == [(RED, "none"), (BLUE, "none")]
    assert {visit.box_xyxy for visit in summary.results} == {(120, 50, 220, 120)}


def test_every_single_image_is_a_visit(classifier: Classifier) -> None:
    pictures = [np.full((40, 60, 3), color, np.uint8) for color in (RED_BGR, BLUE_BGR, BLUE_BGR)]
    source = FrameSource([Frame(i, 0.0, picture, f"{i}.jpg") for i, picture in enumerate(pictures)], stills=True)
    summary = watch(WatchConfig(keep=True), sources={"camera": source}, classifier=classifier)
    assert [(visit.name, visit.image, visit.crops) for visit in summary.results] == [
        (RED, "0.jpg", 1),
        (BLUE, "1.jpg", 1),
        (BLUE, "2.jpg", 1),
    ]


def test_locating_by_motion_is_refused_for_single_images(classifier: Classifier) -> None:
    with pytest.raises(InputError, match="needs a video or a camera, not single images"):
        config = WatchConfig(cameras=(CameraConfig(locate="motion"),))
        watch(config, sources={"camera": FrameSource([], stills=True)}, classifier=classifier)


def test_crops_are_classified_in_batches_and_only_every_nth_frame(classifier: Classifier) -> None:
    cars = [Car(RED_BGR, 10, 40, -90, 320, y=30), Car(BLUE_BGR, 10, 40, -90, 320, y=90)]
    together = run(classifier, film(cars, 60))
    alone = run(classifier, film(cars, 60), batch=1)
    seldom = run(classifier, film(cars, 60), classify_every=5)
    crops = sum(visit.crops for visit in together.results)
    assert together.stages["classify"].runs < crops
    assert alone.stages["classify"].runs == sum(visit.crops for visit in alone.results) == crops
    assert 6 <= sum(visit.crops for visit in seldom.results) < crops / 4
    assert sorted(passes(together)) == sorted(passes(alone)) == sorted(passes(seldom))


def test_a_car_in_few_frames_is_a_visit_even_if_it_is_rarely_classified(classifier: Classifier) -> None:
    summary = run(classifier, film([drive_by(RED_BGR, 10, 8)], 40), classify_every=50)
    assert [(visit.name, visit.crops) for visit in summary.results] == [
        ("Castor", 1)
    ]  # one crop is enough only for a make


def test_clock_ids_and_timer_are_passed_in(classifier: Classifier) -> None:
    ticks = threading.local()  # one counter per thread, because they run in parallel

    def timer() -> float:
        ticks.now = getattr(ticks, "now", 0.0) + 1.0
        return float(ticks.now)

    times = (datetime(2025, 3, 1, tzinfo=UTC) + timedelta(seconds=i) for i in range(100))
    summary = watch(
        WatchConfig(keep=True),
        sources=frames(film([drive_by(RED_BGR, 5)], 50)),
        classifier=classifier,
        clock=lambda: next(times),
        timer=timer,
        new_id=lambda: "the-id",
    )
    (visit,) = summary.results
    assert (visit.id, visit.started_at) == ("the-id", datetime(2025, 3, 1, tzinfo=UTC))
    assert visit.ended_at >= visit.started_at
    assert summary.stages["locate"].p50_ms == pytest.approx(1000, rel=0.01)
    assert summary.fps == pytest.approx(summary.frames / summary.seconds, abs=0.01)


def test_on_frame_gets_each_frame_with_its_tracks_and_answers(classifier: Classifier) -> None:
    seen: list[tuple[int, list[LiveTrack]]] = []
    watch(
        WatchConfig(),
        sources=frames(film([drive_by(RED_BGR, 10)], 50)),
        classifier=classifier,
        on_frame=lambda live: seen.append((live.frame.index, list(live.tracks))),
    )
    assert [index for index, _ in seen] == list(range(50))
    assert seen[5][1] == []
    assert [(track.name, track.certainty.endswith("%")) for track in seen[25][1]] == [(RED, True)]
    assert [track.name for index, tracks in seen[:16] for track in tracks][:2] == [None, None]  # not confirmed yet
    assert [(track.level, track.published) for track in seen[25][1]] == [("year", True)]
    assert not any(track.published for index, tracks in seen for track in tracks if track.name is None)
    crops = [track.crops for _, tracks in seen for track in tracks]
    assert crops == sorted(crops) and crops[-1] > 10


def test_the_stop_event_ends_the_run_and_vehicles_in_view_become_visits(classifier: Classifier) -> None:
    stop = threading.Event()

    def endless() -> Iterator[Frame]:
        for frame in as_frames(film([drive_by(RED_BGR, 5, 60)], 60)):
            if frame.index == 40:
                stop.set()
            yield frame

    summary = watch(
        WatchConfig(keep=True), sources={"camera": FrameSource(endless())}, classifier=classifier, stop=stop
    )
    assert summary.frames == 41
    assert passes(summary) == [(RED, "left_to_right")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities for threads")
@pytest.mark.parametrize("live", [False, True])
def test_a_file_source_yields_to_the_model_and_a_live_camera_does_not(classifier: Classifier, live: bool) -> None:
    niceness = []

    def noted() -> Iterator[Frame]:
        niceness.append(os.getpriority(os.PRIO_PROCESS, 0))
        yield from as_frames(film([], 3))

    source = FrameSource(noted())
    source.live = live
    watch(WatchConfig(), sources={"camera": source}, classifier=classifier)
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert (niceness[0] == ours) if live else (niceness[0] > ours)


def test_the_run_ends_after_the_duration(classifier: Classifier, tmp_path: Path) -> None:
    threads = threading.active_count()
    config = WatchConfig(cameras=(CameraConfig(source=str(tmp_path)),), duration_s=0.3)
    summary = watch(config, classifier=classifier)
    assert (summary.frames, summary.visits) == (0, 0)
    assert threading.active_count() == threads


def test_a_duration_of_a_hundred_years_ends_with_the_source(classifier: Classifier) -> None:
    threads = threading.active_count()
    assert watch(WatchConfig(duration_s=3.16e9), sources=frames(film([], 3)), classifier=classifier).frames == 3
    assert threading.active_count() == threads


def test_sinks_are_closed_and_the_source_released_when_the_loop_fails(classifier: Classifier, tmp_path: Path) -> None:
    events = JsonLines(tmp_path / "events.jsonl")
    source = FrameSource(as_frames(film([], 5)))
    released = []
    source.release = lambda: released.append(True)  # type: ignore[method-assign]

    def fail(_live: LiveFrame) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watch(WatchConfig(), [events], sources={"camera": source}, classifier=classifier, on_frame=fail)
    assert events._stream is None
    assert released == [True]


def test_the_repr_of_a_config_has_no_secrets_of_the_source() -> None:
    assert "secret" not in repr(WatchConfig(cameras=(CameraConfig(source="rtsp://admin:secret@cam/live"),)))


def test_stage_latencies_are_percentiles_in_constant_memory() -> None:
    stages = Stages()
    for milliseconds in range(1, 101):
        stages.add("read", milliseconds / 1000)
    stages.add("write", 0.0)
    stages.add("write", 1e9)
    read = stages.latencies()["read"]
    assert (read.runs, read.p50_ms, read.p95_ms) == (100, pytest.approx(50, rel=0.02), pytest.approx(95, rel=0.02))
    assert stages.latencies()["write"].runs == 2


def test_stage_durations_are_counted_by_bucket_and_an_edge_belongs_to_its_bucket() -> None:
    stages = Stages()
    for seconds in (0.0, 0.0005, 0.0006, 2.0, 2.1, 11.0):
        stages.add("read", seconds)
    found = stages.durations()["read"]
    assert dict(zip((*BUCKETS_S, inf), found.counts, strict=True)) == dict.fromkeys((*BUCKETS_S, inf), 0) | {
        0.0005: 2, 0.001: 1, 2.0: 1, 5.0: 1, inf: 1,
    }  # fmt: skip
    assert found.sum_s == pytest.approx(15.1011)


# --- the golden inputs of the model, before the first frame ---


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose red and blue channels are swapped since its export."""
    path = tiny_model(tmp_path_factory.mktemp("drifted") / "tiny.onnx", golden=True)
    swapped = read_manifest(path).preprocess.model_copy(update={"color": "bgr"})
    return with_manifest(path, path, preprocess=swapped)


def test_a_drifted_model_is_refused_and_the_source_is_released(drifted: Path) -> None:
    source = FrameSource(as_frames(film([], 5)))
    released = []
    source.release = lambda: released.append(True)  # type: ignore[method-assign]
    seen: list[Frame] = []
    with pytest.raises(ModelError, match="answers differently on cpu than at export"):
        config = WatchConfig(model=drifted, ep="cpu")
        watch(config, sources={"camera": source}, on_frame=lambda live: seen.append(live.frame))
    assert (seen, released) == ([], [True])


def test_a_drifted_model_is_used_if_drift_is_allowed(drifted: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = WatchConfig(model=drifted, ep="cpu", threads=1, allow_drift=True, keep=True)
    summary = watch(config, sources=frames(film([drive_by(RED_BGR, 10)], 50)))
    assert passes(summary) == [(BLUE, "left_to_right")]  # which is why it is refused otherwise
    assert "using it anyway" in caplog.text


def test_a_model_that_answers_as_at_export_or_has_no_golden_inputs_is_used(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path, word in ((model, "no golden inputs"), (tiny_model(tmp_path / "a.onnx", golden=True), "golden inputs: 3")):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            summary = watch(WatchConfig(model=path, ep="cpu"), sources=frames(film([], 3)))
        assert summary.frames == 3
        assert word in caplog.text


def test_a_classifier_that_is_passed_in_is_not_checked(drifted: Path) -> None:
    classifier = Classifier(open_session(drifted, ep="cpu", threads=1))
    assert watch(WatchConfig(), sources=frames(film([], 3)), classifier=classifier).frames == 3


# --- the command, in this process ---


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cars = [drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 60, to_the_right=False)]
    return write_video(tmp_path_factory.mktemp("clip") / "gate.mp4", film(cars, 110))


def test_events_are_on_standard_output_and_the_summary_is_not(clip: Path, model: Path) -> None:
    result = invoke(clip, "--model", model, "--threads", 1)
    visits = [Event.model_validate_json(line) for line in result.stdout.splitlines()]
    assert [visit.name for visit in visits] == [RED, BLUE]
    assert {visit.source for visit in visits} == {str(clip)}
    assert f"{clip}: 2 visits in 110 frames" in result.stderr
    assert "skipped: none" in result.stderr
    for stage in ("read", "locate", "classify", "write"):
        assert re.search(rf"{stage} +p50 +[\d.]+ ms +p95 +[\d.]+ ms", result.stderr)
    assert result.exit_code == 0


def test_the_summary_counts_omitted_visits_and_names_the_parameter(clip: Path, model: Path, tmp_path: Path) -> None:
    result = invoke(clip, "--model", model, "--min-area", 0.3)
    assert "0 visits" in result.stderr
    assert "2 moving things were smaller than --min-area 0.3" in result.stderr
    config = tmp_path / "cameras.toml"
    config.write_text(f'model = "{model}"\n[[cameras]]\nsource = "{clip}"\nmin_area = 0.3\n')
    assert "2 moving things were smaller than `min_area = 0.3`" in invoke("--config", config).stderr


def test_the_log_suggests_a_min_area_once(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("twincar_edge.runtime.tracking.ignored._TELLING", 2)
    pictures = film([drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 60, to_the_right=False)], 160)
    assert run(classifier, pictures, min_area=0.3).visits == 0
    (line,) = [one for one in caplog.messages if "moving things" in one]
    better = re.search(r"if the small ones are vehicles, `min_area=([\d.]+)` counts most of them", line)
    assert better is not None
    assert run(classifier, pictures, min_area=float(better[1])).visits == 2


def test_the_command_refuses_a_drifted_model_unless_drift_is_allowed(clip: Path, drifted: Path) -> None:
    arguments = (clip, "--model", drifted, "--ep", "cpu", "--threads", 1)
    with pytest.raises(ModelError, match="use it anyway with `allow_drift=True`") as caught:
        invoke(*arguments)
    assert caught.value.exit_code == 2
    result = invoke(*arguments, "--allow-drift")
    assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == [BLUE, RED]
    assert result.exit_code == 0


def test_events_go_to_a_file_and_crops_to_a_folder(clip: Path, model: Path, tmp_path: Path) -> None:
    events, crops = tmp_path / "events.jsonl", tmp_path / "crops"
    result = invoke(clip, "--model", model, "-o", events, "--save-crops", crops, "--locate", "motion", "--stride", 2)
    assert result.stdout == ""
    visits = [Event.model_validate_json(line) for line in events.read_text("utf-8").splitlines()]
    assert [visit.name for visit in visits] == [RED, BLUE]
    pictures = {path.name.partition("Z-")[2]: cv2.imread(str(path)) for path in crops.iterdir()}
    assert set(pictures) == {f"{visit.id}.jpg" for visit in visits}
    assert np.argmax(pictures[f"{visits[0].id}.jpg"].mean(axis=(0, 1))) == 2  # red, in BGR


def test_a_corrupt_image_does_not_end_the_run_over_a_folder(model: Path, tmp_path: Path) -> None:
    for number, color in enumerate((RED_BGR, GREEN_BGR, BLUE_BGR)):
        cv2.imwrite(str(tmp_path / f"car_{number}.jpg"), np.full((40, 60, 3), color, np.uint8))
    (tmp_path / "car_1.jpg").write_bytes((tmp_path / "car_1.jpg").read_bytes()[:200])
    result = invoke(tmp_path, "--once", "--model", model)
    assert [json.loads(line)["image"] for line in result.stdout.splitlines()] == ["car_0.jpg", "car_2.jpg"]
    assert "2 visits in 2 frames" in result.stderr
    assert "skipped: 1 truncated" in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/dev/video99"], "no device /dev/video99"),
        (["{tmp}/nothing.mp4"], "no source"),
        (["{tmp}", "--once"], "holds no images"),
        (["{clip}", "--model", "{clip}"], "is not an ONNX model"),
        (["{clip}", "--model", "{model}", "--locate", "zone"], "needs a polygon"),
        (["{clip}", "--model", "{model}", "--zone", "1,2"], "a zone is"),
        (["{clip}", "--model", "{model}", "--ep", "warp"], "warp"),
        (["{clip}", "--model", "{model}", "--save-crops", "{clip}"], "cannot write into"),
        (
            ["rtsp://admin:secret@127.0.0.1:1/live", "--model", "{model}"],
            r"cannot open rtsp://\*\*\*@127\.0\.0\.1:1/live",
        ),
    ],
)
def test_user_errors_are_one_line_with_exit_code_2(
    arguments: list[str], message: str, clip: Path, model: Path, tmp_path: Path
) -> None:
    filled = [argument.format(tmp=tmp_path, clip=clip, model=model) for argument in arguments]
    with pytest.raises(Exception, match=message) as caught:
        invoke(*filled)
    assert getattr(caught.value, "exit_code", None) == 2
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


# --- the command, in a child process ---


@pytest.fixture
def start(model: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `twincar-edge watch` on a source; processes that still run at the end of the test are killed."""
    running: list[subprocess.Popen[str]] = []

    def start_one(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "twincar_edge", "watch", *map(str, arguments), "--model", str(model), "--threads",
            "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED":
            "1"},
        )  # fmt: skip
        running.append(process)
        return process

    yield start_one
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_the_watch_with_a_summary(
    number: int, code: int, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    cv2.imwrite(str(tmp_path / "car_0.jpg"), np.full((40, 60, 3), RED_BGR, np.uint8))
    process = start(tmp_path)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["name"] == RED  # it has started, and flushes each event
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert output == ""
    assert "1 visit in 1 frame, " in errors
    assert "Traceback" not in errors


def test_an_image_that_arrives_while_the_command_waits_is_classified(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    cv2.imwrite(str(tmp_path / "car_0.jpg"), np.full((40, 60, 3), RED_BGR, np.uint8))
    process = start(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    cv2.imwrite(str(tmp_path / "car_1.jpg"), np.full((40, 60, 3), BLUE_BGR, np.uint8))
    event = json.loads(process.stdout.readline())
    assert (event["image"], event["name"]) == ("car_1.jpg", BLUE)


def test_a_closed_standard_output_ends_the_watch_without_an_error(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    for number in range(200):
        cv2.imwrite(str(tmp_path / f"car_{number}.png"), np.full((20, 30, 3), RED_BGR, np.uint8))
    process = start(tmp_path, "--once")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()  # as `head -1` does
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


# --- the real clip ---

# Counted by eye in the frames of parking_lot_overhead.mp4, before any tracker ran on them: each car that drives
# through, with the first and last frame in which part of its body is visible, and its direction. At the upper edge,
# the black fronts of parked cars are always visible; they are not visits.
PASSES = [
    ("white hatchback", 54, 107, "up"),
    ("pale blue hatchback", 181, 228, "down"),
    ("red saloon", 187, 238, "up"),
    ("white sports saloon", 315, 347, "down"),
]


@pytest.mark.shared
@pytest.mark.parametrize("stride", [1, 3])
def test_the_parking_lot_gives_one_visit_for_each_car_that_drives_through(
    shared: Path, classifier: Classifier, stride: int
) -> None:
    clip = shared / "clips" / "parking_lot_overhead.mp4"
    camera = CameraConfig(source=str(clip), locate="motion", stride=stride)
    config = WatchConfig(cameras=(camera,), keep=True)
    summary = watch(config, classifier=classifier)
    found = sorted(summary.results, key=lambda visit: visit.first_frame)
    assert [visit.direction for visit in found] == [direction for *_, direction in PASSES]
    for visit, (name, first, last, _) in zip(found, PASSES, strict=True):
        assert abs(visit.first_frame - first) <= 4, name
        assert abs(visit.last_frame - last) <= 4, name
    assert found[2].name == RED
