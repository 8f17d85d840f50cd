"""An annotated video has the frames of its source and their times, and never delays or loses an event."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import av
import cv2
import numpy as np
import pytest

from tests.support.clips import BLUE_BGR, RED_BGR, Image, as_frames, drive_by, film, write_video
from tests.support.event_toys import eventually
from tests.support.tiny_model import BLUE, RED, tiny_model
from twincar_edge.cli import main
from twincar_edge.draw import PALETTE
from twincar_edge.errors import InputError
from twincar_edge.runtime.annotating import video
from twincar_edge.runtime.annotating.video import AnnotatedVideos
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.loop.answering import LiveFrame
from twincar_edge.runtime.sinks import backlog, encoding
from twincar_edge.runtime.sources import Frame

FPS = 12.5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx", golden=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cars = [drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 60, to_the_right=False)]
    return write_video(tmp_path_factory.mktemp("clip") / "gate.mp4", film(cars, 110), fps=FPS)


def watch(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["watch", *map(str, arguments)])
    return int(str(ended.value.code))


def read(path: Path) -> tuple[list[Image], list[float], float]:
    """A video's pictures, their times in seconds, and its nominal rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        rate = float(container.streams.video[0].average_rate or 0)
        return [frame.to_ndarray(format="bgr24") for frame in frames], [frame.time for frame in frames], rate


def distance(image: Image, color: tuple[int, int, int]) -> float:
    return float(np.abs(image.astype(float) - color).mean())


def test_the_video_has_every_frame_of_a_file_at_its_time_with_boxes(
    clip: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "videos" / "out.mp4"
    assert watch(clip, "--model", model, "--threads", 1, "--annotate", out) == 0
    shown = capfd.readouterr()
    assert [json.loads(line)["name"] for line in shown.out.splitlines()] == [RED, BLUE]
    assert f"wrote {out}: 110 frames\n" in shown.err
    pictures, times_s, rate = read(out)
    assert rate == FPS
    assert times_s == pytest.approx([index / FPS for index in range(110)], abs=1e-4)
    plain = read(clip)[0]
    left = 2 * drive_by(RED_BGR, 10).box(25)[0]  # type: ignore[index] # twice as large: the frame is small
    edge = np.s_[140:180, left - 5 : left]
    ((_, *_rest), color) = pictures, PALETTE[1]
    before = cv2.resize(plain[25], (640, 360))[edge]
    assert distance(pictures[25][edge], color) < 0.7 * distance(before, color)
    assert np.abs(pictures[5][100:300].astype(int) - cv2.resize(plain[5], (640, 360))[100:300]).mean() < 6
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_with_several_cameras_each_has_its_own_video(clip: Path, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "cameras.toml"
    cameras = "".join(f'[[cameras]]\nname = "{name}"\nsource = "{clip}"\n' for name in ("north", "south"))
    config.write_text(f'model = "{model}"\nstate = "{tmp_path / "state"}"\nthreads = 1\n{cameras}')
    assert watch("--config", config, "--annotate", tmp_path / "{camera}.mp4") == 0
    assert [len(read(tmp_path / f"{name}.mp4")[0]) for name in ("north", "south")] == [110, 110]


@pytest.mark.parametrize(
    ("source", "out", "said"),
    [
        ("{clip}", "{tmp}/out.avi", "{annotate} writes MP4: name a file that ends in .mp4, found {tmp}/out.avi"),
        ("{clip}", "{clip}", "{clip} is an input, and would be overwritten: choose another {annotate}"),
        ("{clip}", "{clip}/out.mp4", "cannot write into {clip}: it exists, but is not a folder"),
        ("{clip}", "{tmp}", "{annotate} writes MP4: name a file that ends in .mp4, found {tmp}"),
        ("{tmp}/car.jpg", "{tmp}/out.mp4", "{annotate} needs a video or a camera: {tmp}/car.jpg gives single images"),
    ],
)  # fmt: skip
def test_an_unwritable_video_is_a_one_line_error_before_the_run(
    source: str, out: str, said: str, clip: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "car.jpg"), np.full((40, 60, 3), 90, np.uint8))
    source, out, said = (
        text.format(clip=clip, tmp=tmp_path, annotate="--annotate FILE.mp4") for text in (source, out, said)
    )
    assert watch(source, "--model", model, "--annotate", out) == 2
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", f"error: {said}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["car.jpg"]


def test_several_cameras_need_several_files() -> None:
    cameras = [CameraConfig(name="north"), CameraConfig(name="south")]
    with pytest.raises(InputError, match=r"`annotate` names one file for 2 cameras: write out-\{camera\}\.mp4"):
        AnnotatedVideos(Path("out.mp4"), cameras)


def test_a_video_that_would_replace_the_source_of_another_camera_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "south.mp4"
    source.write_bytes(b"a recording")
    cameras = [CameraConfig(name="north", source=str(source)), CameraConfig(name="south", source=str(tmp_path / "x"))]
    with pytest.raises(InputError, match=r"south\.mp4 is an input, and would be overwritten"):
        AnnotatedVideos(tmp_path / "{camera}.mp4", cameras).__enter__()
    assert source.read_bytes() == b"a recording"


def test_without_the_encoder_the_extra_is_named(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert watch(clip, "--annotate", tmp_path / "out.mp4") == 2
    assert capfd.readouterr().err == "error: av is not installed: pip install 'twincar-edge[clips]'\n"


def test_a_failed_start_leaves_an_existing_video_unchanged(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"before")
    assert watch(clip, "--model", clip, "--annotate", out) == 2
    assert out.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def live_frames() -> list[LiveFrame]:
    return [LiveFrame("camera", frame, ()) for frame in as_frames(film([], 30))]


def test_frames_of_a_live_camera_are_dropped_and_counted_if_encoding_is_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    videos = AnnotatedVideos(tmp_path / "out.mp4", [CameraConfig()])
    monkeypatch.setattr("twincar_edge.runtime.annotating.picture.Painter.paint", slow(go))
    with videos:
        for live in live_frames():
            videos(live)  # does not block
        go.set()
    (summary,) = videos.summaries
    assert 4 <= summary.frames <= 6
    assert summary.frames + summary.dropped == 30
    assert len(read(summary.path)[0]) == summary.frames


def slow(go: threading.Event) -> object:
    def paint(_self: object, live: LiveFrame) -> Image:
        go.wait(20)
        return live.frame.image_bgr

    return paint


def test_a_disk_that_fills_up_ends_the_video_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = AnnotatedVideos(tmp_path / "out.mp4", [CameraConfig()])
    videos.wait_for_room()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("twincar_edge.runtime.sinks.encoding.VideoEncoder.add", full)
    taken = 0
    with pytest.raises(InputError, match=r"cannot write .*out\.mp4: No space left on device"), videos:
        for live in live_frames():
            videos(live)
            taken += 1
    assert taken == 30
    assert list(tmp_path.iterdir()) == []


class _HungDisk:
    """While `hangs` is set, files whose name passes `of` do not take what is written to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of: Callable[[Path], bool] = lambda _path: True) -> None:
        self.hangs, self._free = threading.Event(), threading.Event()
        write = encoding._File.write

        def hang(file: encoding._File, data: bytes) -> int:
            if self.hangs.is_set() and of(Path(file.name)):
                self._free.wait(60)
            return write(file, data)

        monkeypatch.setattr(encoding._File, "write", hang)
        monkeypatch.setattr(backlog, "DRAIN_S", 0.5)
        monkeypatch.setattr(video, "DRAIN_S", 0.5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._free.set()
        for thread in threading.enumerate():
            if thread.name.startswith("annotate "):
                thread.join(60)


def noisy_frames(camera: str, count: int = 60) -> Iterator[LiveFrame]:
    """Frames that cannot be compressed, so that the muxer soon has something to write."""
    for index in range(count):
        image = np.random.default_rng(index).integers(0, 255, (180, 320, 3), np.uint8)
        yield LiveFrame(camera, Frame(index, index / 10, image, "cam"), ())


def test_a_disk_that_hangs_during_the_run_delays_its_end_by_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung_folder = tmp_path / "hung"
    cameras = [CameraConfig(name="hung"), CameraConfig(name="good")]
    with _HungDisk(monkeypatch, lambda path: path.parent == hung_folder) as disk:
        disk.hangs.set()
        videos = AnnotatedVideos(tmp_path / "{camera}" / "out.mp4", cameras)
        with pytest.raises(InputError) as caught, videos:
            for hung, good in zip(noisy_frames("hung"), noisy_frames("good"), strict=True):
                videos(hung)  # does not block
                videos(good)
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 30  # not the minute of the disk
        (left,) = hung_folder.iterdir()
        assert str(caught.value) == (
            f"cannot finish {hung_folder / 'out.mp4'} within 0.5 s: the disk hangs or is too slow; the video so far is "
            f"in {left.name}"
        )
        eventually((tmp_path / "good" / "out.mp4").exists, "the other video is finished")


def test_a_disk_that_hangs_when_the_file_is_finished_delays_the_end_by_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = AnnotatedVideos(tmp_path / "out.mp4", [CameraConfig()])
    with _HungDisk(monkeypatch) as disk:
        with pytest.raises(InputError, match=r"cannot finish .*out\.mp4 within 0\.5 s"), videos:
            for live in live_frames()[:3]:
                videos(live)
            disk.hangs.set()
        assert [path.name for path in tmp_path.iterdir()] != ["out.mp4"]
    assert len(read(tmp_path / "out.mp4")[0]) == 3  # the disk recovered before the process ended


@pytest.mark.parametrize("step", ["stat", "mkdir", "touch"])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_disk_that_hangs_at_the_start_is_one_line_within_the_limit(
    step: str, stopped: bool, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stop, free = tmp_path / "out.mp4", threading.Event(), threading.Event()
    real = getattr(Path, step)

    def hang(path: Path, *arguments: object, **options: object) -> object:
        if path in (out, tmp_path) or path.parent == tmp_path:
            free.wait(60)
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, step, hang)
    monkeypatch.setattr(video, "OPEN_S", 3600.0 if stopped else 0.5)
    if stopped:
        stop.set()
    videos = AnnotatedVideos(out, [CameraConfig(source=str(clip))], stop=stop)
    with pytest.raises(InputError) as caught, videos:
        pytest.fail("the run must not start")
    assert str(caught.value) == f"cannot create {out}: the disk hangs or is too slow"
    free.set()  # the disk recovers before the process ends
    for thread in threading.enumerate():
        if thread.name.startswith("annotate "):
            thread.join(60)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_waits_for_a_hung_disk_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    videos = AnnotatedVideos(tmp_path / "out.mp4", [CameraConfig()], stop=stop)
    videos.wait_for_room()
    with _HungDisk(monkeypatch) as disk:
        disk.hangs.set()
        stopper = threading.Timer(1.0, stop.set)
        stopper.start()
        with pytest.raises(InputError, match="the disk hangs or is too slow"), videos:
            for live in noisy_frames("camera", 300):
                videos(live)
        assert stop.is_set()
        stopper.join()


def test_a_camera_without_frames_leaves_no_file(tmp_path: Path) -> None:
    with AnnotatedVideos(tmp_path / "out.mp4", [CameraConfig()]) as videos:
        pass
    assert (videos.summaries, list(tmp_path.iterdir())) == ((), [])


def test_the_video_of_a_live_camera_keeps_its_times_and_survives_a_change_of_size(tmp_path: Path) -> None:
    times_s = [7.0, 7.1, 7.5, 9.0]
    sizes = [(180, 321), (180, 321), (90, 160), (180, 321)]
    with AnnotatedVideos(tmp_path / "out.mp4", [CameraConfig()]) as videos:
        videos.wait_for_room()
        for index, (time_s, size) in enumerate(zip(times_s, sizes, strict=True)):
            videos(LiveFrame("camera", Frame(index, time_s, np.full((*size, 3), 90, np.uint8), "cam"), ()))
    assert read(tmp_path / "out.mp4")[1] == pytest.approx([0.0, 0.1, 0.5, 2.0], abs=1e-3)


# --- a live camera, and the command in a child process ---


class _Camera(http.server.BaseHTTPRequestHandler):
    """Sends the same pass of a car repeatedly as MJPEG, at 25 frames per second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        pause = threading.Event()
        with contextlib.suppress(OSError):
            for picture in itertools.cycle(film([drive_by(RED_BGR, 5)], 40)):
                data = cv2.imencode(".jpg", picture)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                pause.wait(0.04)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def camera_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/live"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_video_of_a_live_camera_is_readable_after_a_signal(
    number: int, code: int, camera_url: str, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "videos" / "out.mp4"
    command = [sys.executable, "-m", "twincar_edge", "watch", camera_url, "--model", str(model), "--threads", "1"]
    command += ["--annotate", str(out), "--store", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ends = 0
        while ends < (1 if number == signal.SIGTERM else 3):
            ends += json.loads(process.stdout.readline())["type"] == "end"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    (left,) = out.parent.iterdir()
    assert (left == out) == (number == signal.SIGTERM)
    pictures, times_s, _ = read(left)
    assert len(pictures) >= 15
    assert times_s[-1] > 0.8
    if number == signal.SIGTERM:
        assert f"wrote {out}: {len(pictures)} frames" in errors
