from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import film, write_video
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import (
    Source,
    devices,
    images,
    is_camera,
    network,
    open_source,
    quote_source,
    redact_url,
    video,
)
from twincar_edge.runtime.sources.images import expand, natural_order

SMALL = (64, 48)


def numbered(count: int) -> list[np.ndarray]:
    """Pictures whose brightness encodes their number."""
    return [np.full((SMALL[1], SMALL[0], 3), 20 + 8 * number, np.uint8) for number in range(count)]


def numbers(source: Source) -> list[int]:
    """The numbers of a source's pictures, read from their brightness."""
    with source:
        return [round((float(frame.image_bgr.mean()) - 20) / 8) for frame in source]


def write_images(folder: Path, count: int, pattern: str = "car_{}.png") -> None:
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(numbered(count)):
        assert cv2.imwrite(str(folder / pattern.format(number)), picture)


# --- video files ---


def test_an_existing_path_with_special_characters_is_not_a_pattern(tmp_path: Path) -> None:
    write_images(tmp_path / "cam [front]", 2)
    write_images(tmp_path / "cam [front]" / "night [ir]", 3)
    assert numbers(open_source(str(tmp_path / "cam [front]" / "*.png"))) == [0, 1]
    assert numbers(open_source(str(tmp_path / "*" / "night [ir]" / "car_[01].png"))) == [0, 1]
    assert len(numbers(open_source(str(tmp_path / "cam [front]" / "**" / "*.png")))) == 5


def test_pictures_of_unsupported_formats_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path, 1)
    (tmp_path / "car_0.png").rename(tmp_path / "plain.png")
    done, jpeg = cv2.imencode(".jpg", np.zeros((20, 20, 3), np.uint8))
    assert done
    (tmp_path / "camera.jfif").write_bytes(jpeg.tobytes())
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    (tmp_path / "web.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(12))
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(str(tmp_path), once=True)
    assert [frame.name for frame in source] == ["camera.jfif", "plain.png"]
    assert dict(source.skip_reasons) == {"not an image": 2}
    assert "phone.HEIC is HEIC, which is not supported: convert it to JPEG" in caplog.text
    assert "web.avif is AVIF, which is not supported: convert it to JPEG" in caplog.text


@pytest.mark.parametrize(("suffix", "fourcc"), [("mp4", "mp4v"), ("avi", "MJPG")])
def test_a_video_gives_every_frame_in_order_with_its_time(tmp_path: Path, suffix: str, fourcc: str) -> None:
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
    """An MJPEG video in which some frames are not pictures."""
    write_video(path, film([], count), "MJPG")
    data = bytearray(path.read_bytes())
    starts = [place for place in range(len(data)) if data[place : place + 3] == b"\xff\xd8\xff"]
    assert len(starts) == count
    for frame in frames:
        data[starts[frame] : starts[frame] + 500] = bytes(500)
    path.write_bytes(data)
    return path


def test_damaged_frames_are_counted_and_skipped_and_the_others_keep_their_times(
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


def test_a_truncated_video_gives_its_frames_and_counts_the_missing_ones(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", film([], 40), "MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_source(str(path)) as source:
        given = len(list(source))
    assert 10 < given < 30
    assert given + source.skipped == 40


def test_a_truncated_mp4_is_a_one_line_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", film([], 20))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"clip\.mp4.*truncated") as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"this is no video", os.urandom(5000)], ids=["empty", "text", "random"])
def test_a_file_that_is_not_a_video_is_a_one_line_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a video"):
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


def test_a_video_whose_name_is_not_utf_8_is_a_one_line_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", numbered(2)).rename(tmp_path / "caf\udce9.mp4")
    code = (
        "import sys\n"
        "from twincar_edge.errors import InputError\n"
        "from twincar_edge.runtime.sources import open_source\n"
        "try:\n    open_source(sys.argv[1])\nexcept InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
    assert done.returncode == 0  # OpenCV itself would abort the process
    assert done.stdout.decode().endswith("caf\\udce9.mp4: its name is not UTF-8: rename it\n")


# --- images ---


def test_images_of_a_folder_are_in_natural_order_without_hidden_files_and_folders(tmp_path: Path) -> None:
    write_images(tmp_path, 12)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".car_3.png").write_bytes(b"somebody's temporary file")
    (tmp_path / "more.png").mkdir()
    source = open_source(str(tmp_path), once=True)
    assert (source.kind, source.live, source.stills, source.fps) == ("folder", False, True, None)
    assert numbers(source) == list(range(12))


def test_corrupt_images_are_counted_by_reason_and_the_run_continues(
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
        ("rtmp://user:secret@host/live?x=[1]", False, r"cannot read rtmp://\*\*\*@host/live"),
        ("rtsp:/user:secret@host/live", False, r"no source '\*\*\*@host/live'"),
        (" rtsp:user:secret@host/*", False, r"no image matches '\*\*\*@host/\*'"),
        ("live?user=admin&pwd=secret", False, "no image matches"),
        ("{tmp}/loop", False, "no source"),
        ("{tmp}/" + "x" * 300, False, "no source"),
    ],
)
def test_an_invalid_source_is_a_one_line_error(tmp_path: Path, spec: str, once: bool, message: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec.format(tmp=tmp_path), once=once)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_name_that_is_not_utf_8_is_logged_with_escapes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, 1)
    (tmp_path / "car_0.png").rename(tmp_path / "caf\udce9.png")
    (tmp_path / "\x1b[31mred.png").touch()
    source = open_source(str(tmp_path), once=True)
    assert [frame.name for frame in source] == ["caf\\udce9.png"]
    assert r"\x1b[31mred.png is empty" in caplog.text


def test_paths_expand_to_images_without_duplicates(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    found = expand([tmp_path / "car_2.png", tmp_path, tmp_path / "car_*.png", tmp_path / "missing.png"])
    assert [path.name for path in found] == ["car_2.png", "car_0.png", "car_1.png", "missing.png"]


def test_a_recursive_search_finds_the_images_of_subfolders_but_of_no_hidden_or_linked_ones(tmp_path: Path) -> None:
    for name in ("", "b10", "b9", "b9/deep", ".hidden"):
        (tmp_path / name).mkdir(exist_ok=True)
        write_images(tmp_path / name, 1)
    (tmp_path / "b9" / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = expand([tmp_path], recursive=True)
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["b9/car_0.png", "b9/deep/car_0.png", "b10/car_0.png", "car_0.png"]
    assert [path.name for path in expand([tmp_path])] == ["car_0.png"]


def test_the_error_for_images_only_in_subfolders_suggests_the_recursive_search(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no images \("):
        expand([tmp_path])
    with pytest.raises(InputError, match="and its subfolders hold no images"):
        expand([tmp_path], recursive=True)
    write_images(tmp_path / "cars", 1)
    with pytest.raises(InputError, match="its subfolders do: search them with `recursive=True`"):
        expand([tmp_path], recursive=False)
    with pytest.raises(InputError, match=r"holds no images \("):
        expand([tmp_path])


def test_a_recursive_search_ends_at_too_many_subfolders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MOST_FOLDERS", 1)
    for name in ("a", "b"):
        write_images(tmp_path / name, 1)
    with pytest.raises(InputError, match="more than 1 subfolders"):
        expand([tmp_path], recursive=True)


def test_natural_order_compares_numbers_by_value() -> None:
    names = ["a10.jpg", "a9.jpg", "b1.jpg", "a9b.jpg", "10.jpg", "2.jpg"]
    assert sorted(map(Path, names), key=natural_order) == [
        Path(name) for name in ("2.jpg", "10.jpg", "a9.jpg", "a9b.jpg", "a10.jpg", "b1.jpg")
    ]


# --- cameras of this machine ---


def test_the_error_for_a_missing_camera_lists_the_existing_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"no device /dev/video99"):
        open_source("/dev/video99")
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    with pytest.raises(InputError, match="this machine has no"):
        open_source("0")
    for name in ("video10", "video2", "video-cam"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"found \S*video2, \S*video10$"):
        open_source("7")
    (tmp_path / "front-gate").symlink_to(tmp_path / "video5")  # like the links in /dev/v4l/by-id
    with pytest.raises(InputError, match=r"no device \S*video5"):
        open_source(str(tmp_path / "front-gate"))


def test_a_camera_without_permission_names_the_group_and_the_remedy(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may open anything, so root switches to another user, who must be able to reach the folder.
    folder = tmp_path_factory.mktemp("dev")
    device = folder / "video0"
    device.touch()
    device.chmod(0)
    opened = [folder, *folder.parents[: folder.parents.index(Path("/tmp"))]] if os.geteuid() == 0 else []
    modes = {path: path.stat().st_mode for path in opened}
    monkeypatch.setattr(devices, "DEVICES", folder)
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


def test_a_device_that_is_not_a_camera_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "video63").touch()
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    with pytest.raises(InputError, match="gives no pictures"):
        open_source("63")


def test_a_camera_that_was_unplugged_is_still_a_camera_and_not_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    (tmp_path / "v4l").mkdir()
    for link in ("front-gate", "v4l/by-id/usb-camera-index0"):  # a name from a udev rule, and one of udev's own
        with pytest.raises(InputError, match="not plugged in"):
            open_source(str(tmp_path / link))


class Webcam:
    """Replaces cv2.VideoCapture of a camera that supports some sizes, with or without MJPG."""

    def __init__(self, *, mjpg: bool, largest_wh: tuple[int, int]) -> None:
        self.mjpg, self.largest_wh = mjpg, largest_wh
        self.is_now = {cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"YUYV"), cv2.CAP_PROP_FPS: 10}
        self.is_now |= {cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FRAME_HEIGHT: 480}

    def get(self, what: int) -> float:
        return float(self.is_now.get(what, -1))

    def set(self, what: int, value: float) -> bool:
        if what == cv2.CAP_PROP_FOURCC and not self.mjpg:
            return False
        limit = dict(zip((cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT), self.largest_wh, strict=True))
        self.is_now[what] = min(int(value), limit.get(what, int(value)))
        return True


@pytest.mark.parametrize(
    ("webcam", "size_wh", "said"),
    [
        (
            Webcam(mjpg=True, largest_wh=(1920, 1080)),
            (1280, 720),
            "cam gives 1280x720 MJPG at 10 frames",
        ),
        (Webcam(mjpg=False, largest_wh=(800, 600)), (1280, 720), "cam gives 800x600 YUYV at 10 frames"),
        (Webcam(mjpg=True, largest_wh=(1920, 1080)), None, "cam gives 640x480 YUYV at 10 frames"),
    ],
    ids=["as asked", "falls back", "as it is"],
)
def test_mjpg_and_the_size_are_requested_from_a_camera_and_its_format_is_logged(
    webcam: Webcam, size_wh: tuple[int, int] | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    devices.configure(webcam, "cam", size_wh)  # type: ignore[arg-type]
    assert said in caplog.text
    assert ("asked for 1280x720 MJPG" in caplog.text) == (size_wh is not None)


# --- streams ---


def test_sources_that_cannot_be_read_twice_are_cameras(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    assert all(map(is_camera, ("0", "/dev/video0", "rtsp://gate/live", "http://gate/mjpg", str(tmp_path))))
    assert not any(map(is_camera, (str(tmp_path / "car_0.png"), "clip.mp4", str(tmp_path / "*.png"))))
    assert not is_camera(str(tmp_path), once=True)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_an_unreachable_stream_is_a_one_line_error_without_the_password(scheme: str) -> None:
    with socket.socket() as taken:  # a port without a listener
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=r"cannot open \w+://\*\*\*@127\.0\.0\.1:\d+/live") as caught:
            open_source(f"{scheme}://admin:secret@127.0.0.1:{port}/live")
    assert "secret" not in str(caught.value)


def test_a_server_that_accepts_and_sends_nothing_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "NETWORK_TIMEOUT_MS", 1000)
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
        ("http://cam/video?user=admin&password=secret&fps=5", "http://cam/video?***"),
        ("http://cam/video?fps=5&Auth_Token=secret", "http://cam/video?***"),
        ("rtsp://cam/user=admin_password=secret_channel=1_stream=0.sdp", "rtsp://cam/***"),
        ("rtsp://admin:sec ret@10.0.0.7/live", "rtsp://***@10.0.0.7/live"),
        ("rtsp://admin:sec\nret@10.0.0.7/live", "rtsp://***@10.0.0.7/live"),
        ("http://cam/video?pin=1234", "http://cam/video?***"),
        ("http://cam/cgi-bin/snapshot.cgi?p=1234", "http://cam/cgi-bin/***"),
        ("rtsps://10.0.0.7:7441/aBcD1234eFgH5678?enableSrtp", "rtsps://10.0.0.7:7441/***?***"),
        ("rtsps://10.0.0.7:7441/aBcD1234eFgH5678", "rtsps://10.0.0.7:7441/***"),
        ("rtsp://10.0.0.7/Streaming/Channels/101", "rtsp://10.0.0.7/Streaming/***"),
        ("rtsp://10.0.0.7/live/", "rtsp://10.0.0.7/live/"),
        (
            "cannot open rtsps://h/aBcD1234eFgH5678: gone, rtsp://h/a/b?c=d.",
            "cannot open rtsps://h/***: gone, rtsp://h/a/***.",
        ),
        ("clips/monday 1.mp4", "clips/monday 1.mp4"),
        ("cannot open http://a:secret@b/c: gone", "cannot open http://***@b/c: gone"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("/data/2025-11-01T12:30:00/gate=1.mp4", "'/data/2025-11-01T12:30:00/gate=1.mp4'"),
        ("//admin:secret@10.0.0.7/live", "'***@10.0.0.7/live'"),
        ("rtsp:/10.0.0.7/live?pin=1234", "'rtsp:/10.0.0.7/***'"),
        ("/10.0.0.7/live?pin=1234", "'/10.0.0.7/***'"),
    ],
)
def test_paths_are_quoted_completely_and_invalid_urls_without_secrets(spec: str, shown: str) -> None:
    assert quote_source(spec) == shown
