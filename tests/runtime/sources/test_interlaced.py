"""Live interlaced streams: OpenCV repeats a picture of them and reports success, so PyAV reads them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.sources.test_live_http import Camera, CameraServer
from tests.runtime.sources.test_pyav import INTERLACED, encode, picture, places, without_pyav
from tests.support.event_toys import eventually
from tests.support.rtsp_server import RtspServer
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import Frame, Source, open_source
from twincar_edge.runtime.sources.interlaced import HOLD_S, ReaderChoice
from twincar_edge.runtime.sources.pyav import PyAVInput
from twincar_edge.runtime.sources.unchanged import MANY

TS_PACKET = 188
WAIT_S = 30.0


def transport_stream(clip: Path, pause_s: float) -> Callable[[Camera], None]:
    """Send a transport stream without a length, as a live encoder does, and hang up at its end."""

    def behave(camera: Camera) -> None:
        camera.begin("video/mp2t")
        data = clip.read_bytes()
        for start in range(0, len(data), 7 * TS_PACKET):
            camera.wfile.write(data[start : start + 7 * TS_PACKET])
            if not camera.pause(pause_s):
                return

    return behave


def moving(source: Source, many: int) -> list[Frame]:
    """Return the first frames of a source."""
    return list(itertools.islice(source, many))


def assert_deinterlaced(frames: list[Frame]) -> None:
    """Check that each frame is one of the clip's pictures, without combs, and that they follow each other."""
    found = places(frames)
    assert len(set(found)) > len(found) // 2
    for frame, number in zip(frames, found, strict=True):
        assert np.abs(frame.image_bgr.astype(int) - picture(number)).mean() < 6


def test_an_interlaced_transport_stream_over_http_is_read_through_pyav(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clip = encode(tmp_path / "live.ts", options={**INTERLACED, "g": "12"}, pictures=range(56))
    with CameraServer(transport_stream(clip, 0.01)) as server, open_source(server.url) as source:
        frames = moving(source, 20)
        assert source.status().size_wh == (320, 180)
    assert_deinterlaced(frames)
    assert f"{source.name} is interlaced: it is read through PyAV, and deinterlaced" in caplog.text
    assert source.skip_reasons == {}


def test_an_interlaced_rtsp_camera_is_read_through_pyav_and_opened_again_there(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4", options={**INTERLACED, "g": "12"}, pictures=range(56))
    with RtspServer(clip, loops=4) as server, open_source(server.url) as source:
        frames = iter(source)
        assert_deinterlaced(list(itertools.islice(frames, 20)))
        reconnects = source.status().reconnects
        server.kill()
        eventually(lambda: source.status().state == "waiting", "the stream is lost", WAIT_S)
        server.start()
        assert_deinterlaced(list(itertools.islice(frames, 10)))
        assert source.status().reconnects == reconnects + 1  # no detour through OpenCV


def test_a_progressive_stream_stays_with_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pyav(monkeypatch)
    clip = encode(tmp_path / "live.ts", options={"g": "12"}, pictures=range(56))
    with CameraServer(transport_stream(clip, 0.01)) as server, open_source(server.url) as source:
        assert_deinterlaced(moving(source, 20))
        assert source.status().reconnects == 0


def test_sound_without_pictures_does_not_outlast_the_timeout(tmp_path: Path) -> None:
    """A sender that never sends another picture must not hold the reader."""
    import av

    path = tmp_path / "sound.ts"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg2video", rate=25), container.add_stream("mp2", rate=48000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), "bgr24")))
        container.mux(video.encode())
        for number in range(1500):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 48000, 1152 * number
            container.mux(sound.encode(frame))
    with CameraServer(transport_stream(path, 0.01)) as server:
        capture = PyAVInput(server.url, 1, 0.5).open()
        grabbed = sum(1 for _ in itertools.takewhile(lambda _: capture.grab(), range(100)))
        capture.release()
        assert grabbed < 15
        assert not server.over.is_set()


class Pictures:
    """A capture of given pictures; each is a level of gray."""

    def __init__(self, *levels: int) -> None:
        self._levels = list(levels)
        self._now: int | None = None

    def isOpened(self) -> bool:
        return True

    def get(self, _: int, /) -> float:
        return 0.0

    def grab(self) -> bool:
        self._now = self._levels.pop(0) if self._levels else None
        return self._now is not None

    def retrieve(self) -> tuple[bool, Any]:
        return self._now is not None, np.full((4, 4, 3), self._now or 0, np.uint8)

    def release(self) -> None:
        pass


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def given(choice: ReaderChoice, *levels: int) -> list[int]:
    """Return which pictures pass."""
    capture = choice.watch(Pictures(*levels))
    found = []
    while capture.grab():
        found.append(int(capture.retrieve()[1][0, 0, 0]))
    return found


def test_the_first_picture_waits_for_one_that_differs() -> None:
    assert given(ReaderChoice("camera"), 0, 0, 0, 5, 5, 6) == [5, 5, 6]
    assert given(ReaderChoice("camera"), 3) == [3]


def test_a_slow_camera_with_a_still_picture_is_not_held_back_for_long() -> None:
    clock = Clock()
    capture = ReaderChoice("camera", monotonic=clock).watch(Pictures(*[7] * 10))
    clock.now_s = HOLD_S + 1
    assert capture.grab()
    assert int(capture.retrieve()[1][0, 0, 0]) == 7


def test_pictures_that_repeat_between_others_are_examined_once(tmp_path: Path) -> None:
    choice = ReaderChoice("camera")
    what = PyAVInput(str(encode(tmp_path / "clip.mp4", pictures=range(5))), 1)
    twice, levels = ([level for level in range(MANY + 5) for _ in range(times)] for times in (2, 3))
    assert choice.open_pyav(what) is None
    assert given(choice, *twice) == twice[2:]  # a camera that sends each picture twice is not suspected
    with pytest.raises(InputError, match="repeats its pictures"):
        given(choice, *levels)
    assert choice.open_pyav(what) is None  # progressive
    assert given(choice, *levels) == levels


def test_without_pyav_a_still_picture_costs_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pyav(monkeypatch)
    choice, levels = ReaderChoice("camera"), [1, 2, *[3] * 2 * MANY]
    with pytest.raises(InputError, match="repeats its pictures"):
        given(choice, *levels)
    assert choice.open_pyav(PyAVInput("rtsp://127.0.0.1/live", 1, 1.0)) is None
    assert given(choice, *levels) == levels


def test_a_stream_that_pyav_cannot_open_stays_with_opencv(tmp_path: Path) -> None:
    choice = ReaderChoice("camera")
    for _ in range(3):
        with pytest.raises(InputError, match="repeats its pictures"):
            given(choice, 1, 2, *[3] * 2 * MANY)
        assert choice.open_pyav(PyAVInput(str(tmp_path / "missing.mp4"), 1)) is None
    assert given(choice, 1, 2, *[3] * 2 * MANY) == [1, 2, *[3] * 2 * MANY]
