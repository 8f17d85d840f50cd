"""Clips: a short video of each vehicle's pass, whole or not at all, within limits of memory, time and disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.clips import BLUE_BGR, RED_BGR, drive_by, film, write_video
from tests.disks import small_disk
from tests.event_toys import MOMENT, eventually
from tests.tiny_model import tiny_model
from twincar_edge.bundled import demo_clip, demo_model
from twincar_edge.cli.watch import command
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.evidence import Evidence, look_at
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.loop.footage import FPS, LIMIT_BYTES, Footage
from twincar_edge.runtime.loop.inbox import Crop, End
from twincar_edge.runtime.monitoring.status import SinkStatus
from twincar_edge.runtime.service import service
from twincar_edge.runtime.sinks import backlog as backlog_module
from twincar_edge.runtime.sinks.base import DeliveryError
from twincar_edge.runtime.sinks.clips import Clip, ClipRules, Picture, clip_folder, clip_name, write_clip
from twincar_edge.runtime.sinks.filming import Filming
from twincar_edge.runtime.sinks.settings import ClipsSettings, CropsSettings, JsonLinesSettings
from twincar_edge.runtime.sources import Frame

BOX: Box = (10, 10, 60, 40)
RATE = 25.0


# --- what a camera keeps, and what becomes a clip ---


class Scene:
    """A camera's thread in small: frames, of which a test says what they show."""

    def __init__(self, **options: Any) -> None:
        self.clips: list[Clip] = []
        self.footage = Footage(self.clips.append, **options)
        self.index = -1
        self.most_bytes = 0

    def frame(self, picture: NDArray[np.uint8] | None = None) -> Frame:
        self.index += 1
        grey = np.full((90, 160, 3), self.index % 250, np.uint8)
        return Frame(self.index, self.index / RATE, grey if picture is None else picture, "scene")

    def run(self, seconds: float, vehicle: Evidence | None = None, counts: bool = True, **frame: Any) -> None:
        """Show a scene for so long, with a vehicle in every frame."""
        for _ in range(round(seconds * RATE)):
            one = self.frame(**frame)
            items = []
            if vehicle is not None:
                vehicle.see(one, BOX)
                items.append(Crop("gate", vehicle, look_at(one, BOX, 1.0), counts, 0.0))
            self.footage.add(one)
            self.footage.see(items, one.time_s)
            self.most_bytes = max(self.most_bytes, self.footage.bytes)

    def enter(self, id: str = "car") -> Evidence:
        """A vehicle that is first seen in the next frame."""
        first = Frame(self.index + 1, (self.index + 1) / RATE, np.zeros((90, 160, 3), np.uint8), "scene")
        return Evidence(first, BOX, MOMENT, id, lambda: None)  # type: ignore[arg-type, return-value]

    def leave(self, vehicle: Evidence, counts: bool = True) -> None:
        self.footage.see([End("gate", vehicle, counts)], self.index / RATE)


def times(clip: Clip) -> list[float]:
    return [picture.time_s for picture in clip.pictures]


def test_a_clip_shows_the_pass_and_some_seconds_around_it_at_a_low_rate() -> None:
    scene = Scene()
    scene.run(10)
    car = scene.enter()
    scene.run(3, car)
    scene.run(1)  # out of sight
    scene.leave(car)
    assert scene.clips == []  # what follows is to be in it
    scene.run(4)
    (clip,) = scene.clips
    assert (clip.id, clip.started_at, clip.name) == ("car", MOMENT, "20250301T120015.040Z-car.mp4")
    assert 8 <= times(clip)[0] < 8 + 1 / FPS + 1 / RATE
    assert 15 - 1 / FPS - 2 / RATE < times(clip)[-1] <= 15
    steps = np.diff(times(clip))
    assert steps.min() >= 1 / FPS - 1 / RATE
    assert steps.mean() == pytest.approx(1 / FPS, rel=0.05)


def test_a_vehicle_that_stays_has_one_clip_of_how_it_came_and_has_it_soon() -> None:
    scene = Scene()
    scene.run(5)
    car = scene.enter()
    scene.run(18.2, car)
    (clip,) = scene.clips  # it is still there
    scene.run(60, car)
    scene.leave(car)
    scene.run(5)
    scene.footage.close()
    assert scene.clips == [clip]
    assert 3 <= times(clip)[0] < 3.2
    assert 19.5 < times(clip)[-1] - times(clip)[0] <= 20


def test_a_vehicle_that_counts_late_has_a_clip_that_ends_when_it_began_to_count() -> None:
    scene = Scene()
    car = scene.enter()
    scene.run(40, car, counts=False)
    scene.run(2, car)
    scene.leave(car)
    scene.run(3)
    (clip,) = scene.clips
    assert 19 < times(clip)[0] < 21
    assert times(clip)[-1] - times(clip)[0] <= 20


def test_what_turns_out_to_be_no_vehicle_has_no_clip() -> None:
    scene = Scene()
    shadow, ghost = scene.enter("shadow"), scene.enter("ghost")
    scene.run(1, shadow, counts=False)
    scene.leave(shadow, counts=False)
    scene.run(1, ghost)
    scene.leave(ghost, counts=False)
    scene.run(30)
    scene.footage.close()
    assert scene.clips == []


def test_a_visit_that_counts_only_at_its_end_has_a_clip() -> None:
    scene = Scene()
    car = scene.enter()
    scene.run(2, car, counts=False)
    scene.leave(car)
    scene.run(3)
    assert [clip.id for clip in scene.clips] == ["car"]


def test_what_is_in_view_when_the_source_ends_has_a_clip_up_to_there() -> None:
    scene = Scene()
    scene.run(5)
    car = scene.enter()
    scene.run(1, car)
    scene.footage.close()
    (clip,) = scene.clips
    assert times(clip)[-1] == pytest.approx(6, abs=1 / FPS + 1 / RATE)
    assert scene.footage.bytes == 0


def test_vehicles_at_the_same_time_have_a_clip_each() -> None:
    scene = Scene()
    scene.run(3)
    one = scene.enter("one")
    scene.run(1, one)
    two = scene.enter("two")
    scene.run(1, two)
    scene.leave(one)
    scene.run(1, two)
    scene.leave(two)
    scene.run(3)
    assert [clip.id for clip in scene.clips] == ["one", "two"]
    assert [round(times(clip)[0]) for clip in scene.clips] == [1, 2]


@pytest.mark.parametrize("limit_bytes", [2_000_000, LIMIT_BYTES])
def test_the_pictures_in_memory_stay_under_their_limit_whatever_a_camera_shows(limit_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    scene = Scene(limit_bytes=limit_bytes)
    car = scene.enter()
    scene.run(25, car, picture=noise)
    assert 0 < scene.most_bytes <= limit_bytes
    (clip,) = scene.clips
    assert sum(len(picture.jpeg) for picture in clip.pictures) <= limit_bytes


def test_old_pictures_go_although_the_limit_has_room() -> None:
    scene = Scene(rules=ClipRules(longest_s=4))
    scene.run(60)
    assert len(scene.footage._pictures) <= 4 * FPS + 3


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 80), st.integers(1, 120)), max_size=6), st.integers(0, 60))
def test_a_clip_never_leaves_its_time(rate: int, passes: list[tuple[int, int]], after: int) -> None:
    """Whatever the frame rate, and however long vehicles stay or follow each other."""
    clips: list[Clip] = []
    footage, rules = Footage(clips.append), ClipRules()
    picture, index, seen = np.zeros((2, 2, 3), np.uint8), 0, {}
    for number, (pause, length) in enumerate(passes):
        for step in range(pause + length):
            frame = Frame(index, index / rate, picture, "scene")
            index += 1
            items: list[Crop | End] = []
            if step == pause:
                car = Evidence(frame, BOX, MOMENT, str(number), lambda: None)  # type: ignore[arg-type, return-value]
                seen[str(number)] = car
            if step >= pause:
                car.see(frame, BOX)
                items.append(Crop("gate", car, look_at(frame, (0, 0, 2, 2), 1.0), True, 0.0))
                items += [End("gate", car, True)] if step == pause + length - 1 else []
            footage.add(frame)
            footage.see(items, frame.time_s)
    for _ in range(after):
        frame = Frame(index, index / rate, picture, "scene")
        index += 1
        footage.add(frame)
        footage.see([], frame.time_s)
    footage.close()
    assert sorted(clip.id for clip in clips) == sorted(seen)
    for clip in clips:
        first_s, last_s = seen[clip.id].times_s
        assert first_s - rules.before_s <= times(clip)[0]
        assert times(clip)[-1] <= min(last_s + rules.after_s, times(clip)[0] + rules.longest_s + 1)
        assert times(clip) == sorted(set(times(clip)))


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


def test_a_clip_is_h264_that_a_browser_plays_with_the_times_of_its_pictures(tmp_path: Path) -> None:
    pictures = film([drive_by(RED_BGR, 0)], 20)
    moments = [0.0, 0.12, 0.24, *(1.0 + n / FPS for n in range(17))]  # the camera was away for a moment
    write_clip(tmp_path / "clip.mp4", [Picture(t, jpeg(one)) for t, one in zip(moments, pictures, strict=True)])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert container.format.name.startswith("mov")
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index first: it plays while it loads
    written = frames_of(tmp_path / "clip.mp4")
    assert [time_s for time_s, _ in written] == pytest.approx(moments, abs=0.001)
    for (_, shown), picture in zip(written, pictures, strict=True):
        assert np.abs(shown.astype(int) - picture).mean() < 8


@pytest.mark.parametrize("size_wh", [(321, 181), (1920, 1080), (2, 2), (640, 1)])
def test_pictures_of_any_size_become_a_clip(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    clips: list[Clip] = []
    footage = Footage(clips.append)
    frame = Frame(0, 0.0, np.full((size_wh[1], size_wh[0], 3), 90, np.uint8), "scene")
    footage.add(frame)
    car = Evidence(frame, BOX, MOMENT, "car", lambda: None)  # type: ignore[arg-type, return-value]
    footage.see([Crop("gate", car, look_at(frame, (0, 0, *size_wh), 1.0), True, 0.0)], 0.0)
    footage.close()
    write_clip(tmp_path / "clip.mp4", clips[0].pictures)
    ((_, shown),) = frames_of(tmp_path / "clip.mp4")
    assert shown.shape[1] <= 640
    assert shown.shape[0] % 2 == shown.shape[1] % 2 == 0


def test_a_camera_that_changes_its_size_does_not_end_a_clip(tmp_path: Path) -> None:
    small, large = np.full((90, 160, 3), 90, np.uint8), np.full((360, 640, 3), 90, np.uint8)
    write_clip(tmp_path / "clip.mp4", clip_of([small, large, small]).pictures)
    assert [shown.shape for _, shown in frames_of(tmp_path / "clip.mp4")] == [(90, 160, 3)] * 3


def test_clips_over_the_limit_take_the_oldest_away_and_nothing_that_is_not_theirs(tmp_path: Path) -> None:
    pictures = film([drive_by(RED_BGR, 0)], 10)
    others = ("holiday.mp4", "20250301T120015.040Z-car.jpg")
    for name in others:
        (tmp_path / name).write_bytes(b"x" * 10_000)
    with Filming(clip_folder(tmp_path, limit_bytes=10**9), "clips") as filming:
        filming.put(clip_of(pictures))
    size = (tmp_path / clip_of(pictures).name).stat().st_size
    clips = [clip_of(pictures, str(n), MOMENT + timedelta(seconds=n)) for n in range(1, 7)]
    with Filming(clip_folder(tmp_path, limit_bytes=int(3.5 * size)), "clips") as filming:  # as after a restart
        filming.wait_for_room()
        for clip in clips:
            filming.put(clip)
    assert {path.name for path in tmp_path.iterdir()} == {*others, *(clip.name for clip in clips[3:])}


def test_clips_older_than_their_age_go(tmp_path: Path) -> None:
    pictures = film([], 2)
    now = datetime.now(UTC)
    old, young = clip_of(pictures, "old", now - timedelta(days=8)), clip_of(pictures, "young", now)
    with Filming(clip_folder(tmp_path), "clips") as filming:
        filming.put(old)
    with Filming(clip_folder(tmp_path, age=timedelta(days=7)), "clips") as filming:
        filming.put(young)
    assert [path.name for path in tmp_path.iterdir()] == [young.name]


def test_no_clip_takes_the_disks_reserve(tmp_path: Path) -> None:
    said: list[str] = []
    with Filming(clip_folder(tmp_path, reserve_bytes=10**18), "clips", on_problem=said.append) as filming:
        for number in range(3):
            filming.put(clip_of(film([], 2), str(number)))
            eventually(lambda number=number: filming.status().dropped == number + 1, "dropped")
    assert list(tmp_path.iterdir()) == []
    assert len(said) == 1
    assert "no clips are saved in" in said[0]
    assert "the rest is for events" in said[0]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 KB."""
    with small_disk(tmp_path / "disk", "100k") as folder:
        yield folder


def test_a_disk_that_runs_full_leaves_nothing_half_written_and_clips_go_on_when_there_is_room(disk: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 255, (20, 180, 320, 3), dtype=np.uint8))
    said: list[str] = []
    with Filming(clip_folder(disk), "clips", on_problem=said.append) as filming:
        filming.put(clip_of(noise, "large"))
        eventually(lambda: filming.status().dropped == 1, "dropped")
        assert filming.status().problem is not None
        assert list(disk.iterdir()) == []
        filming.put(clip_of(film([], 5), "small"))
    (saved,) = disk.iterdir()
    assert len(frames_of(saved)) == 5
    assert len(said) == 2
    assert "No space left on device" in said[0]
    assert said[1] == "clips: saves again; 1 clips were lost"


_WRITES_CLIPS = """
import sys
from pathlib import Path
from tests.clips import RED_BGR, drive_by, film
from tests.test_clips import clip_of
from twincar_edge.runtime.sinks.clips import clip_folder
from twincar_edge.runtime.sinks.filming import Filming

pictures = film([drive_by(RED_BGR, 0)], 60)
with Filming(clip_folder(Path(sys.argv[1])), "clips") as filming:
    filming.wait_for_room()
    for number in range(10_000):
        filming.put(clip_of(pictures, str(number)))
"""


def test_what_a_killed_run_has_written_is_whole_and_what_it_has_begun_goes_later(tmp_path: Path) -> None:
    def begun() -> list[Path]:
        return list(tmp_path.glob(".*.mp4"))

    process = subprocess.Popen([sys.executable, "-c", _WRITES_CLIPS, tmp_path], cwd=Path(__file__).parent.parent)
    try:
        eventually(lambda: len(list(tmp_path.glob("2*.mp4"))) >= 2, "two are written", 60)
        for _ in range(500):  # until it is in the middle of one
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            if begun():
                break
            os.kill(process.pid, signal.SIGCONT)
    finally:
        process.kill()
        process.wait()
    (remnant,) = begun()
    for path in tmp_path.glob("2*.mp4"):
        assert len(frames_of(path)) == 60
    with Filming(clip_folder(tmp_path), "clips"):
        assert remnant.exists()  # another process may be writing it
    an_hour_ago = remnant.stat().st_mtime - 3700
    os.utime(remnant, (an_hour_ago, an_hour_ago))
    with Filming(clip_folder(tmp_path), "clips"):
        assert not remnant.exists()


def test_a_folder_that_cannot_be_made_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write into"), Filming(clip_folder(tmp_path / "file"), "clips"):
        pass


def test_a_folder_of_clips_raises_what_can_be_tried_again(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "gone")
    with pytest.raises(DeliveryError, match="a clip is not saved"):
        folder.save("20250301T120015.040Z-car.mp4", lambda _path: None)


# --- the queue ---


class _SlowFolder:
    """A folder whose disk hangs until it is told to go on."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.saved: list[str] = []

    def make(self) -> None:
        """Nothing to make."""

    def save(self, name: str, _write: object) -> None:
        self.go.wait()
        self.saved.append(name)


def slow_filming(**options: Any) -> tuple[Filming, _SlowFolder]:
    folder = _SlowFolder()
    return Filming(folder, "clips", limit=2, **options), folder  # type: ignore[arg-type]


def test_a_camera_never_waits_for_a_disk_and_the_oldest_clip_makes_room() -> None:
    said: list[str] = []
    filming, folder = slow_filming(on_problem=said.append)
    clips = [clip_of(film([], 1), str(number)) for number in range(6)]
    with filming:
        filming.put(clips[0])
        eventually(lambda: filming.status().queued == 1 and filming._backlog._in_flight, "one is being saved")
        for clip in clips[1:]:
            filming.put(clip)
        assert (filming.status().queued, filming.status().dropped) == (3, 3)
        folder.go.set()
    assert folder.saved == [clips[0].name, clips[4].name, clips[5].name]
    assert said == ["clips: encoding is too slow, 3 clips were lost"]


def test_a_file_waits_until_its_clips_are_saved() -> None:
    filming, folder = slow_filming()
    clips = [clip_of(film([], 1), str(number)) for number in range(8)]

    def put_all() -> None:
        for clip in clips:
            filming.put(clip)

    with filming:
        filming.wait_for_room()
        thread = threading.Thread(target=put_all, daemon=True)
        thread.start()
        eventually(lambda: filming.status().queued == 3, "full")
        assert thread.is_alive()
        folder.go.set()
        thread.join(20)
    assert folder.saved == [clip.name for clip in clips]
    assert filming.status() == SinkStatus("clips", delivered=8)


def test_a_run_that_stops_waits_for_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "DRAIN_S", 0.1)
    stop, said = threading.Event(), list[str]()
    filming, folder = slow_filming(stop=stop, on_problem=said.append)

    def put_all() -> None:
        for number in range(8):
            filming.put(clip_of(film([], 1), str(number)))

    try:
        with filming:
            filming.wait_for_room()
            thread = threading.Thread(target=put_all, daemon=True)
            thread.start()
            eventually(lambda: filming.status().queued == 3, "full")
            stop.set()
            thread.join(20)
            assert not thread.is_alive()
        assert said == ["clips: 3 clips are lost at closing: there was no time"]
    finally:
        folder.go.set()


# --- a run ---


def run(config: WatchConfig) -> tuple[dict[str, Event], tuple[SinkStatus, ...], set[str]]:
    """The events of a run by their visits, the status of its sinks, and the stages that it measured."""
    (output,) = (sink for sink in config.sinks if isinstance(sink, JsonLinesSettings))
    assert output.path is not None
    with service(config) as running:
        stages = set(running.run().stages)
    events = [Event.model_validate_json(line) for line in output.path.read_text("utf-8").splitlines()]
    return {event.id: event for event in events}, running.status().sinks, stages


def test_a_real_run_saves_a_clip_of_every_pass_and_names_it_in_the_event(tmp_path: Path) -> None:
    sinks = (JsonLinesSettings(path=tmp_path / "events.jsonl"), ClipsSettings(path=tmp_path / "clips"))
    camera = CameraConfig(name="gate", source=str(demo_clip()), classify_every=5)
    config = WatchConfig(cameras=(camera,), model=demo_model(), ep="cpu", sinks=sinks, state=tmp_path / "state")
    events, status, stages = run(config)
    assert len(events) > 10
    assert status[-1] == SinkStatus("clips", delivered=len(events))
    assert "film" in stages
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {event.clip for event in events.values()}
    film_s = {round(time_s * RATE): picture for time_s, picture in frames_of(demo_clip())}
    end_s = max(film_s) / RATE
    for event in events.values():
        assert event.clip == clip_name(event)
        shown = frames_of(tmp_path / "clips" / str(event.clip))
        assert event.first_time_s is not None
        assert event.last_time_s is not None
        from_s, until_s = max(0.0, event.first_time_s - 2), min(end_s, event.last_time_s + 2)
        slack_s = 1 / FPS + 2 / RATE
        assert until_s - from_s - 2 * slack_s < shown[-1][0] <= until_s - from_s + 0.001
        # Its first picture is one of the clip's beginning, and its last one of its end: the whole pass is between them.
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


def test_two_cameras_do_not_mix(model: Path, tmp_path: Path) -> None:
    cameras = []
    for name, colour, brightness in (("one", RED_BGR, 0), ("two", BLUE_BGR, 90)):
        pictures = film([drive_by(colour, 10), drive_by(colour, 70)], 120)
        brighter = [np.clip(one.astype(int) + brightness, 0, 255).astype(np.uint8) for one in pictures]
        path = write_video(tmp_path / f"{name}.mp4", brighter)
        cameras.append(CameraConfig(name=name, source=str(path)))
    sinks = (JsonLinesSettings(path=tmp_path / "events.jsonl"), ClipsSettings(path=tmp_path / "clips"))
    events, _, _ = run(WatchConfig(cameras=tuple(cameras), model=model, sinks=sinks, state=tmp_path / "state"))
    assert sorted(event.camera for event in events.values()) == ["one", "one", "two", "two"]
    for event in events.values():
        for _, picture in frames_of(tmp_path / "clips" / str(event.clip)):
            assert (np.median(picture) > 140) == (event.camera == "two")


def test_without_clips_nothing_is_filmed_and_no_event_names_one(model: Path, tmp_path: Path) -> None:
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


def test_clips_have_one_folder() -> None:
    with pytest.raises(ValueError, match="two sinks save clips"):
        WatchConfig(sinks=(ClipsSettings(path=Path("a")), ClipsSettings(path=Path("b"))))


def test_limits_without_a_folder_are_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["gate.mp4", "--clips-limit", "2GB"])
    assert result.exit_code == 2
    assert "--clips-limit and --clips-age belong to --save-clips DIR" in result.output
