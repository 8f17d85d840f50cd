"""Which video stream of a container is read, and how many frames count as missing."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.runtime.sources.test_live_http import Camera, CameraServer
from tests.support.event_toys import eventually
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import Frame, open_source

SMALL_WH, LARGE_WH = (64, 48), (128, 96)


def mux(path: Path, *streams: tuple[tuple[int, int], str], frames: int = 12, step_ms: int = 40) -> Path:
    """Write video streams of these sizes and codecs, a frame every `step_ms`; picture N has brightness 20 + 10 N."""
    with av.open(str(path), "w") as container:
        opened = []
        for (width, height), codec in streams:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.time_base = width, height, Fraction(1, 1000)
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            opened.append(stream)
        for number in range(frames):
            for stream in opened:
                image = np.full((stream.height, stream.width, 3), 20 + 10 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts = number * step_ms
                container.mux(stream.encode(frame))
        for stream in opened:
            container.mux(stream.encode())
    return path


def ffmpeg(*arguments: object) -> None:
    import imageio_ffmpeg

    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *map(str, arguments)], check=True)


def read(path: Path) -> tuple[list[Frame], dict[str, int]]:
    with open_source(str(path)) as source:
        return list(source), source.skip_reasons


def brightness(frames: list[Frame]) -> list[int]:
    return [round((float(frame.image_bgr.mean()) - 20) / 10) for frame in frames]


@pytest.mark.parametrize("sizes", [(SMALL_WH, LARGE_WH), (LARGE_WH, SMALL_WH)])
def test_the_largest_of_several_streams_is_read_and_all_are_named(
    tmp_path: Path, sizes: tuple[tuple[int, int], ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    both, path = mux(tmp_path / "both.mp4", *((size, "libx264") for size in sizes)), tmp_path / "two.mp4"
    ffmpeg("-i", both, "-map", 0, "-c", "copy", "-disposition:v", "default", path)
    frames, skipped = read(path)
    assert {frame.image_bgr.shape for frame in frames} == {(96, 128, 3)}
    assert (brightness(frames), skipped) == (list(range(12)), {})
    listed = ", ".join(f"h264 {width}x{height}" for width, height in sizes)
    assert f"{path} has 2 video streams ({listed}); reading number {sizes.index(LARGE_WH) + 1}" in caplog.text


def test_the_default_stream_is_read_before_a_larger_one(tmp_path: Path) -> None:
    both = mux(tmp_path / "both.mkv", (LARGE_WH, "libx264"), (SMALL_WH, "libx264"))
    path = tmp_path / "default.mkv"
    ffmpeg("-i", both, "-map", 0, "-c", "copy", "-disposition:v:0", 0, "-disposition:v:1", "default", path)
    assert {frame.image_bgr.shape for frame in read(path)[0]} == {(48, 64, 3)}


@pytest.fixture
def cover(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "cover.png"), np.zeros((240, 320, 3), np.uint8))
    return tmp_path / "cover.png"


def test_a_cover_picture_before_the_video_is_not_the_video(tmp_path: Path, cover: Path) -> None:
    video, path = mux(tmp_path / "video.mp4", (LARGE_WH, "libx264")), tmp_path / "covered.mkv"
    ffmpeg("-i", cover, "-i", video, "-map", 0, "-map", 1, "-c:v:0", "mjpeg", "-c:v:1", "copy", path)
    frames, skipped = read(path)
    assert (brightness(frames), skipped) == (list(range(12)), {})


def test_a_sound_file_with_cover_art_has_no_video(tmp_path: Path, cover: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "song.m4a"
    ffmpeg(
        "-f", "lavfi", "-i", "sine=duration=1", "-i", cover, "-map", 0, "-map", 1, "-c:a", "aac", "-c:v", "copy",
        "-disposition:v", "attached_pic", path,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"song\.m4a: it has no video, only an attached picture such as cover art"):
        open_source(str(path))
    monkeypatch.setitem(sys.modules, "av", None)
    assert read(path)[1] == {}  # without PyAV, the picture is read, and no frame of a video is missed


@pytest.mark.parametrize("pyav", [True, False])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_a_gap_in_a_video_is_no_loss_of_frames(
    tmp_path: Path, suffix: str, pyav: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (mux(tmp_path / name, (SMALL_WH, "libx264")) for name in ("a.ts", "b.ts"))
    (tmp_path / "list.txt").write_text(f"file '{first}'\nduration 600\nfile '{second}'\n")
    path = tmp_path / f"gap{suffix}"
    ffmpeg("-f", "concat", "-safe", 0, "-i", tmp_path / "list.txt", "-c", "copy", path)
    if not pyav:
        monkeypatch.setitem(sys.modules, "av", None)
    frames, skipped = read(path)
    assert frames[-1].time_s > 590
    assert (brightness(frames), skipped) == ([*range(12), *range(12)], {})


@pytest.mark.parametrize("pyav", [True, False])
def test_frames_that_a_cut_without_encoding_hides_are_no_loss(
    tmp_path: Path, pyav: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path = mux(tmp_path / "whole.mp4", (SMALL_WH, "libx264"), frames=20), tmp_path / "cut.mp4"
    ffmpeg("-ss", 0.32, "-i", whole, "-c", "copy", path)
    if not pyav:
        monkeypatch.setitem(sys.modules, "av", None)
    frames, skipped = read(path)
    assert (brightness(frames), skipped) == (list(range(8, 20)), {})


def test_a_video_whose_end_is_missing_still_counts_it(tmp_path: Path) -> None:
    whole = mux(tmp_path / "whole.mp4", (SMALL_WH, "libx264"), frames=20)
    path = tmp_path / "cut.mp4"
    ffmpeg("-i", whole, "-c", "copy", "-movflags", "faststart", path)
    path.write_bytes(path.read_bytes()[:-300])
    frames, skipped = read(path)
    assert 0 < len(frames) < 18
    assert skipped == {"undecodable frame": 20 - len(frames)}


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
def test_a_long_stretch_of_sound_without_a_picture_does_not_end_a_video(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sound{suffix}"
    sound = ("-f", "lavfi", "-i", "anullsrc=r=48000:cl=mono", "-t", 125, "-c:a", "aac", "-b:a", "8k")
    video = mux(tmp_path / "video.mp4", (SMALL_WH, "libx264"), frames=3, step_ms=60_000)
    ffmpeg("-i", video, *sound, "-c:v", "copy", path)
    frames, skipped = read(path)
    assert (brightness(frames), skipped) == ([0, 1, 2], {})


def serve(path: Path, *, sized: bool) -> Callable[[Camera], None]:
    """Send a file, with its length or as a camera does, without one."""

    def behave(camera: Camera) -> None:
        data = path.read_bytes()
        camera.send_response(200)
        camera.send_header("Content-Type", "video/mp4")
        if sized:
            camera.send_header("Content-Length", str(len(data)))
        camera.end_headers()
        camera.wfile.write(data)

    return behave


@pytest.mark.parametrize("sized", [True, False])
def test_a_recording_over_http_ends(tmp_path: Path, sized: bool) -> None:
    whole, path = mux(tmp_path / "whole.mp4", (SMALL_WH, "libx264")), tmp_path / "recording.mp4"
    ffmpeg("-i", whole, "-c", "copy", "-movflags", "faststart", path)
    with CameraServer(serve(path, sized=sized)) as server, open_source(server.url) as source:
        assert not source.live
        assert brightness(list(source)) == list(range(12))
        assert source.skip_reasons == {}


@pytest.mark.parametrize("with_pyav", [True, False])
def test_a_recording_with_its_index_at_the_end_over_http_needs_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pyav: bool
) -> None:
    path = mux(tmp_path / "whole.mp4", (LARGE_WH, "libx264"))
    data = path.read_bytes()
    free = (1 << 17).to_bytes(4) + b"free" + bytes((1 << 17) - 8)  # more than FFmpeg reads ahead
    path.write_bytes(data.replace(index := data[data.index(b"moov") - 4 :], free + index))
    if not with_pyav:
        monkeypatch.setitem(sys.modules, "av", None)
    needed = "needs a server with range requests; to move the index to the front: ffmpeg .*faststart"
    with CameraServer(serve(path, sized=True)) as server, pytest.raises(InputError, match=needed):
        list(open_source(server.url))


def test_an_endless_mp4_over_http_is_a_camera(tmp_path: Path) -> None:
    """FFmpeg states a duration for it, that of the first fragments."""
    path = mux(tmp_path / "whole.mp4", (SMALL_WH, "libx264"), frames=23)
    endless = tmp_path / "endless.mp4"
    ffmpeg("-i", path, "-c:v", "libx264", "-g", 5, "-movflags", "frag_keyframe+empty_moov+default_base_moof", endless)
    with CameraServer(serve(endless, sized=False)) as server, open_source(server.url) as source:
        assert source.live
        frames = iter(source)
        eventually(lambda: next(frames) and source.status().reconnects >= 2, "it is opened again", 30.0)
