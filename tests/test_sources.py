from __future__ import annotations

import http.server
import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.clips import film, write_video
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import Source, open_source, redact_url, video
from twincar_edge.runtime.sources.images import expand, natural_order

SMALL = (64, 48)


def numbered(count: int) -> list[np.ndarray]:
    """Pictures that tell their number by their brightness."""
    return [np.full((SMALL[1], SMALL[0], 3), 20 + 8 * number, np.uint8) for number in range(count)]


def numbers(source: Source) -> list[int]:
    """The numbers of the pictures that a source gives, read from their brightness."""
    with source:
        return [round((float(frame.image_bgr.mean()) - 20) / 8) for frame in source]


def write_images(folder: Path, count: int, pattern: str = "car_{}.png") -> None:
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(numbered(count)):
        assert cv2.imwrite(str(folder / pattern.format(number)), picture)


# --- video files ---


@pytest.mark.parametrize(("suffix", "fourcc"), [("mp4", "mp4v"), ("avi", "MJPG")])
def test_a_video_gives_every_frame_in_order_with_its_own_time(tmp_path: Path, suffix: str, fourcc: str) -> None:
    path = write_video(tmp_path / f"clip.{suffix}", numbered(30), fourcc, fps=12.5)
    with open_source(str(path)) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([index / 12.5 for index in range(30)], abs=1e-3)
    assert [round((float(frame.image_bgr.mean()) - 20) / 8) for frame in frames] == list(range(30))
    assert frames[0].image_bgr.dtype == np.uint8
    assert frames[0].image_bgr.shape == (SMALL[1], SMALL[0], 3)
    assert (source.kind, source.fps, source.live, source.stills, source.skipped) == ("video", 12.5, False, False, 0)


def test_a_stride_takes_every_nth_frame_and_keeps_the_videos_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", numbered(20))
    with open_source(str(path), stride=3) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 3, 6, 9, 12, 15, 18]
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in range(0, 20, 3)], abs=1e-3)
    with pytest.raises(InputError, match="stride"):
        open_source(str(path), stride=0)


def damaged_avi(path: Path, frames: list[int], count: int = 30) -> Path:
    """An MJPEG video in which the pictures of some frames are no pictures."""
    write_video(path, film([], count), "MJPG")
    data = bytearray(path.read_bytes())
    starts = [place for place in range(len(data)) if data[place : place + 3] == b"\xff\xd8\xff"]
    assert len(starts) == count
    for frame in frames:
        data[starts[frame] : starts[frame] + 500] = bytes(500)
    path.write_bytes(data)
    return path


def test_frames_damaged_in_the_middle_are_counted_and_skipped_and_the_rest_keeps_its_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = damaged_avi(tmp_path / "clip.avi", [10, 11, 12, 20])
    with open_source(str(path)) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == [index for index in range(30) if index not in (10, 11, 12, 20)]
    assert frames[-1].time_s == pytest.approx(29 / 25, abs=1e-3)
    assert source.skipped == 4
    assert dict(source.skip_reasons) == {"undecodable frame": 4}
    assert "4 of the 30 frames" in caplog.text


def test_a_video_that_breaks_off_gives_what_is_there_and_counts_the_rest(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", film([], 40), "MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_source(str(path)) as source:
        given = len(list(source))
    assert 10 < given < 30
    assert given + source.skipped == 40


def test_an_mp4_that_was_cut_off_is_one_clear_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", film([], 20))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"clip\.mp4.*cut off") as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"this is no video", os.urandom(5000)], ids=["empty", "text", "random"])
def test_a_file_that_is_no_video_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no video"):
        open_source(str(path))


def test_a_file_is_released_when_the_loop_over_it_fails(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", numbered(5))
    source = open_source(str(path))
    assert isinstance(source, video.VideoFile)
    with pytest.raises(ZeroDivisionError), source:
        for _ in source:
            raise ZeroDivisionError
    assert not source._capture.isOpened()


def test_opencv_and_ffmpeg_are_quiet_about_a_damaged_video(tmp_path: Path) -> None:
    path = damaged_avi(tmp_path / "clip.avi", [10, 11])
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    code = (
        "import sys\n"
        "from twincar_edge.errors import InputError\n"
        "from twincar_edge.runtime.sources import open_source\n"
        "print(len(list(open_source(sys.argv[1]))))\n"
        "try:\n    open_source(sys.argv[2])\nexcept InputError:\n    print('refused')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "cut.mp4")],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.split() == ["28", "refused"]
    assert done.stderr.splitlines() == [f"skipped: 2 of the 30 frames of {path} cannot be decoded"]


# --- images ---


def test_a_folders_images_come_in_natural_order_without_hidden_files_and_folders(tmp_path: Path) -> None:
    write_images(tmp_path, 12)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".car_3.png").write_bytes(b"somebody's temporary file")
    (tmp_path / "more.png").mkdir()
    source = open_source(str(tmp_path), once=True)
    assert (source.kind, source.live, source.stills, source.fps) == ("folder", False, True, None)
    assert numbers(source) == list(range(12))


def test_corrupt_images_are_counted_by_reason_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path, 5)
    (tmp_path / "car_1.png").write_bytes(b"")
    (tmp_path / "car_3.png").write_bytes((tmp_path / "car_3.png").read_bytes()[:-30])
    source = open_source(str(tmp_path), once=True)
    assert numbers(source) == [0, 2, 4]
    assert source.skipped == 2
    assert dict(source.skip_reasons) == {"empty": 1, "truncated": 1}
    assert caplog.text.count("skipped:") == 2
    assert "car_1.png is empty" in caplog.text


def test_a_pattern_and_a_single_image_are_sources(tmp_path: Path) -> None:
    write_images(tmp_path / "monday", 3)
    write_images(tmp_path / "tuesday", 2)
    everything = open_source(str(tmp_path / "**" / "car_*.png"))
    assert (everything.kind, everything.stills) == ("glob", True)
    assert numbers(everything) == [0, 1, 2, 0, 1]
    assert numbers(open_source(str(tmp_path / "monday" / "car_[12].png"))) == [1, 2]
    one = open_source(str(tmp_path / "monday" / "car_2.png"))
    assert (one.kind, one.stills) == ("image", True)
    assert numbers(one) == [2]
    assert numbers(open_source(str(tmp_path / "monday"), once=True, stride=2)) == [0, 2]


@pytest.mark.parametrize(
    ("spec", "once", "message"),
    [
        ("{tmp}", True, "holds no images"),
        ("{tmp}/nowhere", False, "no source"),
        ("{tmp}/*.jpg", False, "no image matches"),
        ("rtmp://user:secret@host/live", False, r"rtmp://\*\*\*@host/live"),
        ("https://", False, "cannot read"),
    ],
)
def test_what_cannot_be_a_source_is_one_clear_error(tmp_path: Path, spec: str, once: bool, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec.format(tmp=tmp_path), once=once)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


class Steps(threading.Event):
    """A stop event whose every wait, in place of time, lets the next thing happen; after the last one it is set."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self.left = list(steps)

    def wait(self, timeout: float | None = None) -> bool:
        if self.left:
            self.left.pop(0)()
        else:
            self.set()
        return self.is_set()


def test_images_that_arrive_while_a_folder_is_watched_are_read_once_and_complete(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    arriving = cv2.imencode(".png", numbered(3)[2])[1].tobytes()

    def append(start: int, end: int) -> None:
        with (tmp_path / "car_2.png").open("ab") as file:  # a slow writer: the file grows, and is no image yet
            file.write(arriving[start:end])

    stop = Steps(
        lambda: append(0, 0),
        lambda: append(0, 50),
        lambda: append(50, 90),
        lambda: append(90, len(arriving)),
        lambda: None,
        lambda: write_images(tmp_path, 4),  # all written again, and one more
        lambda: (tmp_path / "notes.txt").touch(),
        lambda: None,
    )
    source = open_source(str(tmp_path), stop=stop)
    assert source.live and source.stills
    with source:
        assert [frame.name for frame in source] == ["car_0.png", "car_1.png", "car_2.png", "car_3.png"]
    assert source.skipped == 0


def test_an_unusable_image_in_a_watched_folder_is_tried_again_when_it_changes(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    good = (tmp_path / "car_0.png").read_bytes()
    (tmp_path / "car_0.png").write_bytes(b"half an image")
    stop = threading.Event()
    mend = threading.Timer(0.6, lambda: (tmp_path / "car_0.png").write_bytes(good))
    mend.start()
    with open_source(str(tmp_path), stop=stop) as source:
        for frame in source:
            assert frame.name == "car_0.png"
            stop.set()
    mend.join()
    assert source.skipped == 1


def test_waiting_for_images_ends_when_it_is_told_to(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    assert list(open_source(str(tmp_path), stop=stop)) == []
    assert time.monotonic() - started < 20


def test_a_watched_folder_that_vanishes_is_one_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    write_images(folder, 1)
    with pytest.raises(InputError, match="cannot list the folder"):
        for _ in open_source(str(folder)):
            (folder / "car_0.png").unlink()
            folder.rmdir()


def test_paths_to_classify_expand_to_images_each_once(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    found = expand([tmp_path / "car_2.png", tmp_path, tmp_path / "car_*.png", tmp_path / "missing.png"])
    assert [path.name for path in found] == ["car_2.png", "car_0.png", "car_1.png", "missing.png"]


def test_natural_order_counts_in_numbers() -> None:
    names = ["a10.jpg", "a9.jpg", "b1.jpg", "a9b.jpg", "10.jpg", "2.jpg"]
    assert sorted(map(Path, names), key=natural_order) == [
        Path(name) for name in ("2.jpg", "10.jpg", "a9.jpg", "a9b.jpg", "a10.jpg", "b1.jpg")
    ]


# --- cameras of this machine ---


def test_a_camera_that_is_not_there_names_those_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no device /dev/video99"):
        open_source("/dev/video99")
    monkeypatch.setattr(video, "DEVICES", tmp_path)
    with pytest.raises(InputError, match="this machine has no"):
        open_source("0")
    for name in ("video10", "video2", "video-cam"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"found \S*video2, \S*video10$"):
        open_source("7")
    (tmp_path / "front-gate").symlink_to(tmp_path / "video5")  # as /dev/v4l/by-id has them
    with pytest.raises(InputError, match=r"no device \S*video5"):
        open_source(str(tmp_path / "front-gate"))


def test_a_camera_without_permission_names_the_group_and_the_remedy(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may open anything, so root plays somebody else; and that one must be able to reach the folder.
    folder = tmp_path_factory.mktemp("dev")
    device = folder / "video0"
    device.touch()
    device.chmod(0)
    opened = [folder, *folder.parents[: folder.parents.index(Path("/tmp"))]] if os.geteuid() == 0 else []
    modes = {path: path.stat().st_mode for path in opened}
    monkeypatch.setattr(video, "DEVICES", folder)
    try:
        for path in opened:
            path.chmod(0o755)
        if os.geteuid() == 0:
            os.seteuid(65534)
        with pytest.raises(
            InputError, match=r"permission denied on \S*video0, .* group (\w+): sudo usermod -aG \1 \w+"
        ):
            open_source("0")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_device_that_is_no_camera_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "video63").touch()
    monkeypatch.setattr(video, "DEVICES", tmp_path)
    with pytest.raises(InputError, match="gives no pictures"):
        open_source("63")


# --- streams ---


class Camera(http.server.BaseHTTPRequestHandler):
    """An MJPEG camera: /video sends 20 pictures and hangs up, /stall sends 20 and falls silent."""

    silent = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for picture in numbered(20):
            data = cv2.imencode(".jpg", picture)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except (BrokenPipeError, ConnectionResetError):
                return
            time.sleep(0.02)
        if self.path.startswith("/stall"):
            self.silent.wait(60)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def camera_port() -> Iterator[int]:
    Camera.silent.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    Camera.silent.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_http_stream_is_live_and_keeps_its_password_to_itself(
    camera_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with open_source(f"http://admin:secret@127.0.0.1:{camera_port}/video?pwd=secret") as source:
        frames = list(source)
    assert (source.kind, source.live, source.stills) == ("stream", True, False)
    assert [round((float(frame.image_bgr.mean()) - 20) / 8) for frame in frames] == list(range(20))
    assert all(one.time_s < other.time_s for one, other in itertools.pairwise(frames))
    assert frames[-1].time_s - frames[0].time_s > 0.2  # the clock's time, not a made-up frame rate's
    assert "secret" not in caplog.text + repr(source) + source.name + repr(frames[0].name)
    assert source.name == f"http://***@127.0.0.1:{camera_port}/video?pwd=***"
    assert "sends no more frames" in caplog.text


def test_a_stream_that_falls_silent_ends_after_the_time_out(camera_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "NETWORK_TIMEOUT_MS", 1000)
    started = time.monotonic()
    assert len(numbers(open_source(f"http://127.0.0.1:{camera_port}/stall"))) == 20
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_stream_that_cannot_be_reached_is_one_clear_error_without_the_password(scheme: str) -> None:
    with socket.socket() as taken:  # a port on which nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=r"cannot open \w+://\*\*\*@127\.0\.0\.1:\d+/live") as caught:
            open_source(f"{scheme}://admin:secret@127.0.0.1:{port}/live")
    assert "secret" not in str(caught.value)


def test_a_server_that_accepts_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "NETWORK_TIMEOUT_MS", 1000)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(InputError, match="within 1 s"):
            open_source(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live")
        assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://10.0.0.7/live", "rtsp://10.0.0.7/live"),
        ("rtsp://admin:secret@10.0.0.7:554/live", "rtsp://***@10.0.0.7:554/live"),
        ("rtsp://admin:s/ecret@10.0.0.7/live", "rtsp://***@10.0.0.7/live"),
        ("rtsp://admin:se@cret@10.0.0.7/live", "rtsp://***@10.0.0.7/live"),
        ("rtsp://admin:s?ec#ret@10.0.0.7/live", "rtsp://***@10.0.0.7/live"),
        ("http://cam/video?user=admin&password=secret&fps=5", "http://cam/video?user=***&password=***&fps=5"),
        ("http://cam/video?fps=5&Auth_Token=secret", "http://cam/video?fps=5&Auth_Token=***"),
        ("rtsp://cam/user=admin_password=secret_channel=1_stream=0.sdp", "rtsp://cam/user=***"),
        ("clips/monday 1.mp4", "clips/monday 1.mp4"),
        ("cannot open http://a:secret@b/c: gone", "cannot open http://***@b/c: gone"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown
