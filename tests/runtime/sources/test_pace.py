"""Times of live frames: regular despite network jitter, and accurate in the long run."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from tests.runtime.sources.test_live_http import Camera, CameraServer
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.sources.pace import Pace

BURSTS = [40, 40, 40, 0, 80, 40, 0, 40, 80, 0, 80, 40, 0, 80, 0, 80, 40, 40, 0, 80]  # ms, as an RTSP stream arrived


def times(arrivals_s: list[float], fps: float | None = 25) -> np.ndarray:
    pace = Pace(fps)
    return np.array([pace(arrival_s) for arrival_s in arrivals_s])


def test_frames_that_arrive_in_bursts_get_even_times() -> None:
    arrivals_s = np.cumsum(BURSTS * 20) / 1000
    steps_s = np.diff(times(arrivals_s.tolist()))
    assert steps_s.min() > 0.02
    assert steps_s.max() < 0.06


@pytest.mark.parametrize("nominal_fps", [25, 30, 5, None])
@pytest.mark.parametrize("real_fps", [8, 25, 60])
def test_time_does_not_drift_whatever_rate_the_stream_claims(nominal_fps: float | None, real_fps: float) -> None:
    arrivals_s = [frame / real_fps for frame in range(600)]
    found = times(arrivals_s, nominal_fps)
    assert found[-1] == pytest.approx(arrivals_s[-1], abs=0.05)
    assert np.diff(found)[-1] == pytest.approx(1 / real_fps, rel=0.02)


def test_a_stall_is_a_gap_in_time_and_is_not_compensated_later() -> None:
    before = [frame * 0.04 for frame in range(50)]
    after = [before[-1] + 3 + frame * 0.04 for frame in range(50)]
    found = times(before + after)
    assert found[50] - found[49] == pytest.approx(3, abs=0.05)
    assert found[-1] == pytest.approx(after[-1], abs=0.05)


def test_times_are_strictly_increasing() -> None:
    rng = np.random.default_rng(0)
    arrivals_s = np.sort(rng.uniform(0, 20, 500))
    assert (np.diff(times(arrivals_s.tolist(), None)) > 0).all()


class Recording:
    """Replaces cv2.VideoCapture of a recording whose times repeat, as those of reordered frames do."""

    POSITIONS_MS = (0, 40, 80, 80, 160, 200, 200, 280)

    def __init__(self, *_: object) -> None:
        self.grabbed = 0

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        known = {cv2.CAP_PROP_FRAME_COUNT: len(self.POSITIONS_MS), cv2.CAP_PROP_FPS: 25.0}
        return known.get(what, self.POSITIONS_MS[min(self.grabbed, len(self.POSITIONS_MS)) - 1])

    def grab(self) -> bool:
        self.grabbed += 1
        return self.grabbed <= len(self.POSITIONS_MS)

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((8, 8, 3), np.uint8)

    def release(self) -> None:
        """Nothing is open."""


@pytest.fixture
def place() -> Iterator[str]:
    """The host and port of a listening server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def with_a_length(camera: Camera) -> None:
    """Answer as a web server does for a file."""
    camera.send_response(200)
    camera.send_header("Content-Type", "video/mp4")
    camera.send_header("Content-Length", "0")
    camera.end_headers()


def test_repeated_times_of_a_file_become_increasing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Recording)
    with CameraServer(with_a_length) as server, open_source(server.url) as source:
        assert not source.live
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(len(Recording.POSITIONS_MS)))
    assert (np.diff([frame.time_s for frame in frames]) > 0.02).all()


def test_a_recording_over_rtsp_arrives_in_real_time_like_a_camera(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Recording)
    with open_source(f"rtsp://{place}/clip") as source:
        assert source.live
