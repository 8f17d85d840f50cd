"""Limits on the memory that a camera or a video can make the process allocate, measured in child processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.runtime.sources.test_live_http import Camera, CameraServer
from tests.support.clips import film, write_video
from tests.support.event_toys import eventually
from tests.support.memory import read_source
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.sources.pyav import PyAVInput

LIMIT_MB = 250


def encode(path: Path, size: str, codec: str, *options: str, frames: int = 1) -> Path:
    """Write a video of gray frames."""
    import imageio_ffmpeg

    source = ("-f", "lavfi", "-i", f"color=gray:s={size}:r=25", "-frames:v", str(frames))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *source, "-c:v", codec, *options, str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def large_jpeg(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A picture of 256 megapixels in 1.5 MB."""
    return encode(tmp_path_factory.mktemp("large") / "large.mjpeg", "16000x16000", "mjpeg").read_bytes()


def test_a_video_of_huge_frames_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    options = ("-preset", "ultrafast", "-pix_fmt", "yuv420p")
    reading = read_source(encode(tmp_path / "a.mp4", "8176x8176", "libx264", *options))
    assert "has frames of 8176x8176, more than 40 megapixels: `max_frame_megapixels` sets the limit" in reading.error
    assert reading.mb < LIMIT_MB


def test_frames_that_become_too_large_within_a_video_are_skipped(large_jpeg: bytes, tmp_path: Path) -> None:
    small = [cv2.imencode(".jpg", image)[1].tobytes() for image in film([], 6)]
    (tmp_path / "grows.mjpeg").write_bytes(b"".join(small) + large_jpeg)
    reading = read_source(tmp_path / "grows.mjpeg")
    assert (reading.frames, reading.error) == (6, "")
    assert reading.mb < LIMIT_MB


def test_a_stream_whose_frames_grow_takes_no_memory_for_them(tmp_path: Path) -> None:
    options = ("-x264-params", "ref=16:bframes=0:keyint=99", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
    parts = [
        encode(tmp_path / f"{size}.ts", size, "libx264", *options, frames=frames)
        for size, frames in (("64x48", 30), ("8176x8176", 20))
    ]
    (tmp_path / "grows.ts").write_bytes(b"".join(part.read_bytes() for part in parts))

    reading = read_source(tmp_path / "grows.ts", most_frames=100)

    assert reading.frames >= 25  # those before the change, apart from what the decoder holds back
    assert reading.mb < LIMIT_MB


def test_a_camera_of_huge_pictures_is_refused_before_one_is_decoded(large_jpeg: bytes) -> None:
    def behave(camera: Camera) -> None:
        camera.begin()
        camera.send(large_jpeg)
        while camera.pause():
            pass

    with CameraServer(behave) as server, open_source(server.url) as source:
        eventually(lambda: source.status().problem, "it says what is wrong", 30.0)
        assert "is 16000x16000, more than 40 megapixels" in str(source.status().problem)


def test_the_limit_can_be_set_for_each_camera(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", film([], 3))
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.zeros((180, 320, 3), np.uint8))
    with pytest.raises(InputError, match=r"has frames of 320x180, more than 0\.0576 megapixels"):
        open_source(str(clip), max_pixels=57_599)
    for spec in (clip, picture):
        with open_source(str(spec), max_pixels=57_600) as source:
            assert len(list(source)) > 0
    for spec in (str(picture), str(tmp_path / "*.png")):
        with open_source(spec, max_pixels=57_599) as source:
            assert (list(source), source.skip_reasons) == ([], {"too large": 1})
    assert CameraConfig().max_frame_megapixels == 40


def test_a_small_video_does_not_limit_a_large_one_that_pyav_reads(tmp_path: Path) -> None:
    """Both FFmpegs of the process have one limit."""
    pytest.importorskip("av")
    small = write_video(tmp_path / "small.mp4", film([], 3))
    large = encode(tmp_path / "4k.mp4", "3840x2160", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
    with open_source(str(small)) as source:
        capture = PyAVInput(str(large), 1).open()
        assert capture.grab()
        image = capture.retrieve()[1]
        assert image is not None
        assert image.shape == (2160, 3840, 3)
        capture.release()
        assert len(list(source)) == 3
