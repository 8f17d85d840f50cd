"""The demo is right, writes the promised files, and fails if it is wrong."""

from __future__ import annotations

import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import film, write_video
from twincar_edge.bundled import demo_clip, demo_model
from twincar_edge.cli import main
from twincar_edge.errors import GateError, InputError
from twincar_edge.manifest import read_manifest
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.demo import DemoReport, live_demo, run_demo
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sources.playback import Playback
from twincar_edge.runtime.storage.state import StateFolder
from twincar_edge.synthetic import CLASS_NAMES, GateTruth


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    return run_demo(tmp_path_factory.mktemp("demo"), ep="cpu")


def test_every_vehicle_of_the_bundled_clip_becomes_one_visit(report: DemoReport) -> None:
    assert [len(result.visits) for result in report.score.passes] == [1] * len(report.score.passes)
    assert report.score.extra == ()


def test_the_bundled_model_is_right_for_at_least_nine_of_ten(report: DemoReport) -> None:
    assert report.score.right >= 0.9
    report.require()


def test_the_demo_writes_events_an_annotated_video_and_a_contact_sheet(report: DemoReport) -> None:
    visits = [Event.model_validate_json(line) for line in report.events.read_text().splitlines()]
    assert [visit.id for visit in visits] == [visit.id for visit in report.summary.results]
    video = cv2.VideoCapture(str(report.video))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == report.summary.frames
    video.release()
    assert cv2.imread(str(report.sheet)) is not None
    left = sorted(path.name for path in report.events.parent.iterdir())
    assert left == ["annotated.mp4", "contact_sheet.jpg", "state", "visits.jsonl"]
    # A spool is named by its target, so one of a temporary file would remain after every run.
    assert [path.name for path in StateFolder(report.events.parent / "state").spool.glob("jsonl*")] == []


def test_the_page_of_the_demo_shows_its_visits_and_the_clip_live(report: DemoReport) -> None:
    stop = threading.Event()
    page = PageSettings(address="127.0.0.1:0")
    with live_demo(report.events.parent, page, ep="cpu", stop=stop) as service, ThreadPoolExecutor(1) as pool:
        run = pool.submit(service.run)
        assert service.page is not None
        url = service.page.url
        try:
            visit = report.summary.results[-1]
            for path in ("", f"visits/{visit.id}"):
                assert visit.name in urllib.request.urlopen(url + path, timeout=20).read().decode()
            for path in ("live/demo.jpg", f"visits/{visit.id}/picture"):
                assert urllib.request.urlopen(url + path, timeout=20).read().startswith(b"\xff\xd8")
        finally:
            stop.set()
        assert run.result().cameras[0].error is None


def test_playback_keeps_the_frame_rate_and_continues_frame_numbers_in_the_next_loop(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "gate.mp4", film([], 5))
    stop, now, waited = threading.Event(), [100.0], []

    class Clock:
        def is_set(self) -> bool:
            return stop.is_set()

        def wait(self, seconds: float) -> bool:
            waited.append(seconds)
            now[0] += max(0.0, seconds)
            return stop.is_set()

    frames = []
    for frame in Playback(clip, Clock(), monotonic=lambda: now[0]):  # type: ignore[arg-type]
        frames.append(frame)
        if len(frames) == 7:
            now[0] += 10  # the box was busy: later frames are late, not faster
        if len(frames) == 12:
            stop.set()
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in range(12)])
    assert waited[1:7] == pytest.approx([1 / 25] * 6)
    assert waited[8:12] == pytest.approx([1 / 25] * 4)
    assert {frame.recording for frame in frames} == {None}


def test_too_few_right_visits_fail_the_demo(report: DemoReport) -> None:
    with pytest.raises(GateError, match="below the limit"):
        report.require(min_right=1.01)


def test_the_bundled_files_match_and_stay_small() -> None:
    truth = GateTruth.from_json(demo_clip().with_suffix(".json").read_text())
    assert {one.label for one in truth.passes} == set(range(len(CLASS_NAMES)))
    video = cv2.VideoCapture(str(demo_clip()))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == truth.frames
    video.release()
    manifest = read_manifest(demo_model())
    assert manifest.classes == CLASS_NAMES
    assert manifest.parity is not None
    assert "make demo-assets" in manifest.notes
    assert demo_model().stat().st_size < 5_000_000
    assert demo_clip().stat().st_size < 5_000_000


def test_missing_the_ground_truth_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second of empty road, with a ground truth that has a car."""
    clip = tmp_path / "empty.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 180))
    for _ in range(25):
        writer.write(np.full((180, 320, 3), 90, np.uint8))
    writer.release()
    clip.with_suffix(".json").write_text(
        json.dumps({"passes": [{"label": 0, "name": CLASS_NAMES[0], "first_frame": 2, "last_frame": 20}]})
    )
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--clip", str(clip), "-o", str(tmp_path / "out"), "--ep", "cpu"])
    assert stopped.value.code == 1
    shown = capsys.readouterr()
    assert "1 missed" in shown.out
    assert "error: only 0% of the visits are right, below the limit 90%" in shown.err


def test_a_clip_without_ground_truth_is_a_one_line_error_and_writes_nothing(tmp_path: Path) -> None:
    clip = tmp_path / "alone.mp4"
    clip.write_bytes(demo_clip().read_bytes())
    with pytest.raises(InputError, match="cannot read the ground truth"):
        run_demo(tmp_path / "out", clip=clip, ep="cpu")
    assert not (tmp_path / "out").exists()
