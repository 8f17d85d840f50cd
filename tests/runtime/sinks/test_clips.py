"""Clips: a complete short video of each pass, within limits of memory, time and disk space."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from tests import REPOSITORY
from tests.support.clips import BLUE_BGR, RED_BGR, beginning_of, drive_by, film, write_video
from tests.support.disks import small_disk
from tests.support.event_toys import MOMENT, eventually
from tests.support.tiny_model import tiny_model
from twincar_edge.bundled import demo_clip, demo_model
from twincar_edge.cli import main
from twincar_edge.cli.watch import command
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.evidence import crop_vehicle
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.loop.footage import FPS, Footage
from twincar_edge.runtime.loop.inbox import Crop
from twincar_edge.runtime.monitoring.status import SinkStatus
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks import Limits, encoding
from twincar_edge.runtime.sinks import backlog as backlog_module
from twincar_edge.runtime.sinks.base import DeliveryError
from twincar_edge.runtime.sinks.clip_saver import ClipSaver
from twincar_edge.runtime.sinks.clips import Clip, Picture, clip_folder, clip_name, write_clip
from twincar_edge.runtime.sinks.encoding import INDEX_FIRST, SURVIVES_KILL, Layout, VideoEncoder
from twincar_edge.runtime.sinks.settings import ClipsSettings, CropsSettings, JsonLinesSettings
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.visits import Visit

BOX: Box = (10, 10, 60, 40)
RATE = 25.0
FOUR_PASSES_S = 13.5  # of the demo's clip


# --- the file ---


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", picture)[1].tobytes()


def clip_of(pictures: Sequence[NDArray[np.uint8]], id: str = "car", started_at: datetime = MOMENT) -> Clip:
    return Clip(id, started_at, tuple(Picture(10 + n / FPS, jpeg(one)) for n, one in enumerate(pictures)))


def frames_of(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
    """A video's frames and their times in seconds."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        done, picture = capture.read()
        if not done:
            return frames
        frames.append((capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, np.asarray(picture, np.uint8)))


def test_a_clip_is_h264_for_browsers_and_preserves_the_times_of_its_pictures(tmp_path: Path) -> None:
    pictures = film([drive_by(RED_BGR, 0)], 20)
    moments = [0.0, 0.12, 0.24, *(1.0 + n / FPS for n in range(17))]  # with a gap in the stream
    write_clip(tmp_path / "clip.mp4", [Picture(t, jpeg(one)) for t, one in zip(moments, pictures, strict=True)])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert container.format.name.startswith("mov")
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index first, so that it plays while loading
    written = frames_of(tmp_path / "clip.mp4")
    assert [time_s for time_s, _ in written] == pytest.approx(moments, abs=0.001)
    for (_, shown), picture in zip(written, pictures, strict=True):
        assert np.abs(shown.astype(int) - picture).mean() < 8


@pytest.mark.parametrize("layout", [INDEX_FIRST, SURVIVES_KILL], ids=["clip", "annotated video"])
def test_a_disk_that_hangs_while_a_video_is_finished_stops_no_other_thread(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finishing, hangs, free = threading.Event(), threading.Event(), threading.Event()
    write = encoding._File.write

    def hang(file: encoding._File, data: bytes) -> int:
        if finishing.is_set():
            hangs.set()
            free.wait(60)
        return write(file, data)

    monkeypatch.setattr(encoding._File, "write", hang)
    encoder = VideoEncoder(tmp_path / "clip.mp4", layout)
    for n, picture in enumerate(film([drive_by(RED_BGR, 0)], 20)):
        encoder.add(picture, n / FPS)
    finishing.set()
    thread = threading.Thread(target=encoder.close)
    thread.start()
    assert hangs.wait(60)
    assert thread.is_alive()  # and this thread runs
    free.set()
    thread.join()
    assert len(frames_of(tmp_path / "clip.mp4")) == 20


@pytest.mark.parametrize("layout", [INDEX_FIRST, SURVIVES_KILL], ids=["clip", "annotated video"])
def test_an_encoder_leaves_no_file_open(layout: Layout, tmp_path: Path) -> None:
    def files() -> list[Path]:
        return [file for fd in Path("/proc/self/fd").iterdir() if (file := fd.resolve()).is_relative_to(tmp_path)]

    with closing(VideoEncoder(tmp_path / "clip.mp4", layout)) as encoder:
        encoder.add(np.full((90, 160, 3), 90, np.uint8), 0.0)
        assert files()
    assert files() == []


@pytest.mark.parametrize("layout", [INDEX_FIRST, SURVIVES_KILL], ids=["clip", "annotated video"])
@pytest.mark.parametrize("pictures", [1, 20], ids=["when it closes", "when it adds"])  # x264 looks ahead
def test_an_encoder_whose_file_takes_no_header_raises_the_error_of_the_disk(layout: Layout, pictures: int) -> None:
    with (
        pytest.raises(OSError, match="No space left on device"),
        closing(VideoEncoder(Path("/dev/full"), layout)) as encoder,
    ):
        for n, picture in enumerate(film([drive_by(RED_BGR, 0)], pictures)):
            encoder.add(picture, n / FPS)


@pytest.mark.parametrize("size_wh", [(321, 181), (1920, 1080), (2, 2), (640, 1)])
def test_clips_accept_pictures_of_any_size(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    clips: list[Clip] = []
    footage = Footage(clips.append)
    frame = Frame(0, 0.0, np.full((size_wh[1], size_wh[0], 3), 90, np.uint8), "scene")
    footage.add(frame)
    car = Visit("car", MOMENT, frame, BOX)
    footage.see([Crop("gate", car, crop_vehicle(frame, (0, 0, *size_wh), 1.0), True, 0.0)], 0.0)
    footage.close()
    write_clip(tmp_path / "clip.mp4", clips[0].pictures)
    ((_, shown),) = frames_of(tmp_path / "clip.mp4")
    assert shown.shape[1] <= 640
    assert shown.shape[0] % 2 == shown.shape[1] % 2 == 0


def test_a_clip_continues_after_a_change_of_resolution(tmp_path: Path) -> None:
    small, large = np.full((90, 160, 3), 90, np.uint8), np.full((360, 640, 3), 90, np.uint8)
    write_clip(tmp_path / "clip.mp4", clip_of([small, large, small]).pictures)
    assert [shown.shape for _, shown in frames_of(tmp_path / "clip.mp4")] == [(90, 160, 3)] * 3


def test_the_size_limit_deletes_the_oldest_clips_and_no_other_files(tmp_path: Path) -> None:
    pictures = film([drive_by(RED_BGR, 0)], 10)
    others = ("holiday.mp4", "20250301T120015.040Z-car.jpg")
    for name in others:
        (tmp_path / name).write_bytes(b"x" * 10_000)
    with ClipSaver(clip_folder(tmp_path, Limits(10**9)), "clips") as saver:
        saver.put(clip_of(pictures))
    size = (tmp_path / clip_of(pictures).name).stat().st_size
    clips = [clip_of(pictures, str(n), MOMENT + timedelta(seconds=n)) for n in range(1, 7)]
    with ClipSaver(clip_folder(tmp_path, Limits(int(3.5 * size))), "clips") as saver:  # as after a restart
        saver.wait_for_room()
        for clip in clips:
            saver.put(clip)
    assert {path.name for path in tmp_path.iterdir()} == {*others, *(clip.name for clip in clips[3:])}


def test_the_age_limit_deletes_old_clips(tmp_path: Path) -> None:
    pictures = film([], 2)
    now = datetime.now(UTC)
    old, young = clip_of(pictures, "old", now - timedelta(days=8)), clip_of(pictures, "young", now)
    with ClipSaver(clip_folder(tmp_path), "clips") as saver:
        saver.put(old)
    with ClipSaver(clip_folder(tmp_path, Limits(age=timedelta(days=7))), "clips") as saver:
        saver.put(young)
    assert [path.name for path in tmp_path.iterdir()] == [young.name]


def test_no_clip_is_saved_below_the_reserve(tmp_path: Path) -> None:
    messages: list[str] = []
    with ClipSaver(clip_folder(tmp_path, Limits(reserve_bytes=10**18)), "clips", on_problem=messages.append) as saver:
        for number in range(3):
            saver.put(clip_of(film([], 2), str(number)))
            eventually(lambda number=number: saver.status().dropped == number + 1, "dropped")
    assert list(tmp_path.iterdir()) == []
    assert len(messages) == 1
    assert "not saving clips in" in messages[0]
    assert "the rest is reserved for events" in messages[0]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 KB."""
    with small_disk(tmp_path / "disk", "100k") as folder:
        yield folder


def test_a_full_disk_leaves_no_partial_file_and_saving_resumes_once_there_is_space(disk: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 255, (20, 180, 320, 3), dtype=np.uint8))
    messages: list[str] = []
    with ClipSaver(clip_folder(disk), "clips", on_problem=messages.append) as saver:
        saver.put(clip_of(noise, "large"))
        eventually(lambda: saver.status().dropped == 1, "dropped")
        assert saver.status().problem is not None
        assert list(disk.iterdir()) == []
        saver.put(clip_of(film([], 5), "small"))
    (saved,) = disk.iterdir()
    assert len(frames_of(saved)) == 5
    assert len(messages) == 2
    assert "No space left on device" in messages[0]
    assert messages[1] == "clips: saving recovered; 1 clip lost"


_WRITES_CLIPS = """
import sys
from pathlib import Path
from tests.support.clips import RED_BGR, drive_by, film
from tests.runtime.sinks.test_clips import clip_of
from twincar_edge.runtime.sinks.clips import clip_folder
from twincar_edge.runtime.sinks.clip_saver import ClipSaver

pictures = film([drive_by(RED_BGR, 0)], 60)
with ClipSaver(clip_folder(Path(sys.argv[1])), "clips") as saver:
    saver.wait_for_room()
    for number in range(10_000):
        saver.put(clip_of(pictures, str(number)))
"""


def test_after_a_kill_saved_clips_are_complete_and_partial_files_are_deleted_later(tmp_path: Path) -> None:
    def begun() -> list[Path]:
        return list(tmp_path.glob(".*.mp4"))

    process = subprocess.Popen([sys.executable, "-c", _WRITES_CLIPS, tmp_path], cwd=REPOSITORY)
    try:
        eventually(lambda: len(list(tmp_path.glob("2*.mp4"))) >= 2, "two are written", 60)
        for _ in range(500):  # until a file is partly written
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            if begun():
                break
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.002)  # let it make progress on a busy machine
    finally:
        process.kill()
        process.wait()
    (remnant,) = begun()
    for path in tmp_path.glob("2*.mp4"):
        assert len(frames_of(path)) == 60
    with ClipSaver(clip_folder(tmp_path), "clips"):
        assert remnant.exists()  # another process may be writing it
    an_hour_ago = remnant.stat().st_mtime - 3700
    os.utime(remnant, (an_hour_ago, an_hour_ago))
    with ClipSaver(clip_folder(tmp_path), "clips"):
        assert not remnant.exists()


def test_a_missing_encoder_is_an_error_that_names_the_extra_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    clips = tmp_path / "clips"
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(tmp_path / "absent.mp4"), "--save-clips", str(clips), "--state", str(tmp_path / "state")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: av is not installed: pip install 'twincar-edge[clips]'\n"
    assert not clips.exists()


def test_a_folder_that_cannot_be_created_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write into"), ClipSaver(clip_folder(tmp_path / "file"), "clips"):
        pass


def test_a_failed_save_raises_a_retryable_error(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "gone")
    with pytest.raises(DeliveryError, match="cannot save a clip"):
        folder.save("20250301T120015.040Z-car.mp4", lambda _path: None)


# --- the queue ---


class _HangingFolder:
    """A folder whose `save` hangs until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.saved: list[str] = []

    def make(self) -> None:
        """Do nothing."""

    def sweep(self) -> None:
        """Do nothing."""

    def save(self, name: str, _write: object) -> None:
        self.go.wait()
        self.saved.append(name)


def hanging_saver(**options: Any) -> tuple[ClipSaver, _HangingFolder]:
    folder = _HangingFolder()
    return ClipSaver(folder, "clips", limit=2, **options), folder  # type: ignore[arg-type]


def test_a_full_queue_drops_the_oldest_clip_and_never_blocks_a_camera() -> None:
    messages: list[str] = []
    saver, folder = hanging_saver(on_problem=messages.append)
    clips = [clip_of(film([], 1), str(number)) for number in range(6)]
    with saver:
        saver.put(clips[0])
        eventually(lambda: saver.status().queued == 1 and saver._backlog._taken, "one is being saved")
        for clip in clips[1:]:
            saver.put(clip)
        assert (saver.status().queued, saver.status().dropped) == (3, 3)
        folder.go.set()
    assert folder.saved == [clips[0].name, clips[4].name, clips[5].name]
    assert messages == ["clips: encoding too slow: 3 clips lost"]


def test_reading_a_file_waits_until_its_clips_are_saved() -> None:
    saver, folder = hanging_saver()
    clips = [clip_of(film([], 1), str(number)) for number in range(8)]

    def put_all() -> None:
        for clip in clips:
            saver.put(clip)

    with saver:
        saver.wait_for_room()
        thread = threading.Thread(target=put_all, daemon=True)
        thread.start()
        eventually(lambda: saver.status().queued == 3, "full")
        assert thread.is_alive()
        folder.go.set()
        thread.join(20)
    assert folder.saved == [clip.name for clip in clips]
    assert saver.status() == SinkStatus("clips", delivered=8, local=True)


def test_stopping_a_run_does_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "DRAIN_S", 0.1)
    stop, messages = threading.Event(), list[str]()
    saver, folder = hanging_saver(stop=stop, on_problem=messages.append)

    def put_all() -> None:
        for number in range(8):
            saver.put(clip_of(film([], 1), str(number)))

    try:
        with saver:
            saver.wait_for_room()
            thread = threading.Thread(target=put_all, daemon=True)
            thread.start()
            eventually(lambda: saver.status().queued == 3, "full")
            stop.set()
            thread.join(20)
            assert not thread.is_alive()
        assert messages == ["clips: 3 clips lost at shutdown: encoding too slow"]
    finally:
        folder.go.set()


# --- a run ---


def run(config: WatchConfig) -> tuple[dict[str, Event], tuple[SinkStatus, ...], set[str]]:
    """Return a run's events by visit id, the status of its sinks, and the names of measured stages."""
    (output,) = (sink for sink in config.sinks if isinstance(sink, JsonLinesSettings))
    assert output.path is not None
    with Service(config) as service:
        stages = set(service.run().stages)
    events = [Event.model_validate_json(line) for line in output.path.read_text("utf-8").splitlines()]
    return {event.id: event for event in events}, service.status().sinks, stages


def test_a_run_saves_a_clip_of_every_pass_and_names_it_in_the_event(tmp_path: Path) -> None:
    sinks = (JsonLinesSettings(path=tmp_path / "events.jsonl"), ClipsSettings(path=tmp_path / "clips"))
    gate = beginning_of(demo_clip(), FOUR_PASSES_S, tmp_path / "gate.mp4")
    camera = CameraConfig(name="gate", source=str(gate), classify_every=5)
    config = WatchConfig(cameras=(camera,), model=demo_model(), ep="cpu", sinks=sinks, state=tmp_path / "state")
    events, status, stages = run(config)
    assert len(events) == 4
    assert status[-1] == SinkStatus("clips", delivered=len(events), local=True)
    assert "film" in stages
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {event.clip for event in events.values()}
    film_s = {round(time_s * RATE): picture for time_s, picture in frames_of(gate)}
    end_s = max(film_s) / RATE
    for event in events.values():
        assert event.clip == clip_name(event)
        shown = frames_of(tmp_path / "clips" / str(event.clip))
        assert event.first_time_s is not None
        assert event.last_time_s is not None
        from_s, until_s = max(0.0, event.first_time_s - 2), min(end_s, event.last_time_s + 2)
        slack_s = 1 / FPS + 2 / RATE
        assert until_s - from_s - 2 * slack_s < shown[-1][0] <= until_s - from_s + 0.001
        # The first and the last picture are from the expected times, so the clip has the whole pass.
        for (_, picture), moment_s in ((shown[0], from_s), (shown[-1], until_s)):
            near = range(int((moment_s - slack_s) * RATE), int((moment_s + slack_s) * RATE) + 1)
            assert min(_difference(film_s[index], picture) for index in near if index in film_s) < 6


def _difference(frame: NDArray[np.uint8], shown: NDArray[np.uint8]) -> float:
    height, width = shown.shape[:2]
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return float(np.abs(small.astype(int) - shown).mean())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def test_clips_contain_only_frames_of_their_camera(model: Path, tmp_path: Path) -> None:
    cameras = []
    for name, color, brightness in (("one", RED_BGR, 0), ("two", BLUE_BGR, 90)):
        pictures = film([drive_by(color, 10), drive_by(color, 70)], 120)
        brighter = [np.clip(one.astype(int) + brightness, 0, 255).astype(np.uint8) for one in pictures]
        path = write_video(tmp_path / f"{name}.mp4", brighter)
        cameras.append(CameraConfig(name=name, source=str(path)))
    sinks = (JsonLinesSettings(path=tmp_path / "events.jsonl"), ClipsSettings(path=tmp_path / "clips"))
    events, _, _ = run(WatchConfig(cameras=tuple(cameras), model=model, sinks=sinks, state=tmp_path / "state"))
    assert sorted(event.camera for event in events.values()) == ["one", "one", "two", "two"]
    for event in events.values():
        for _, picture in frames_of(tmp_path / "clips" / str(event.clip)):
            assert (np.median(picture) > 140) == (event.camera == "two")


def test_without_a_clips_sink_no_frames_are_buffered_and_no_event_names_a_clip(model: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 10)], 60))
    sinks = (JsonLinesSettings(path=tmp_path / "events.jsonl"), CropsSettings(path=tmp_path / "crops"))
    camera = CameraConfig(source=str(path))
    events, status, stages = run(WatchConfig(cameras=(camera,), model=model, sinks=sinks, state=tmp_path / "state"))
    assert {event.clip for event in events.values()} == {None}
    assert None not in {event.crop for event in events.values()}
    assert "film" not in stages
    assert [sink.name for sink in status] == ["jsonl", "crops"]


def test_single_images_have_no_clips(model: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "car.jpg"), np.full((40, 60, 3), RED_BGR, np.uint8))
    sinks = (JsonLinesSettings(path=tmp_path / "events.jsonl"), ClipsSettings(path=tmp_path / "clips"))
    camera = CameraConfig(source=str(tmp_path / "car.jpg"))
    events, _, _ = run(WatchConfig(cameras=(camera,), model=model, sinks=sinks, state=tmp_path / "state"))
    assert [event.clip for event in events.values()] == [None]
    assert list((tmp_path / "clips").iterdir()) == []


def test_only_one_clips_sink_is_allowed() -> None:
    with pytest.raises(InputError, match="two sinks save clips"):
        WatchConfig(sinks=(ClipsSettings(path=Path("a")), ClipsSettings(path=Path("b"))))


def test_clip_limits_without_a_folder_are_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["gate.mp4", "--clips-limit", "2GB"])
    assert result.exit_code == 2
    assert "--clips-limit and --clips-age need --save-clips DIR" in result.output
