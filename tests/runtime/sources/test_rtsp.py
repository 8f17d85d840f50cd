"""RTSP cameras on a real loopback server that is killed, restarted and frozen."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.clips import beginning_of
from tests.support.event_toys import eventually
from tests.support.rtsp_server import RtspServer
from twincar_edge.bundled import demo_clip
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import Frame, Source, open_source

BACK_S = 3.0  # the promise: frames resume within this time after the server's return
LONGEST_WAIT_S = 1.0  # between retries
WAIT_S = 30.0


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with RtspServer(demo_clip()) as server:
        yield server


class Reading:
    """Reads a source's frames in a thread until it ends."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.newest: Frame | None = None
        self.in_order = True
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Reading:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.release()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _read(self) -> None:
        for frame in self.source:
            last, self.newest = self.newest, frame
            if last is not None:
                self.in_order &= frame.index > last.index and frame.time_s > last.time_s

    def until_live(self) -> None:
        eventually(lambda: self.source.status().state == "live", "frames come", WAIT_S)

    def until_lost(self) -> None:
        eventually(lambda: self.source.status().state == "waiting", "the stream is lost", WAIT_S)


def is_soon(took_s: float, url: str) -> bool:
    """Whether frames resumed as promised; on a busy machine, within a retry delay and twice the time to open now."""
    if took_s < BACK_S:
        return True
    started_s = time.monotonic()
    with open_source(url) as source:
        next(iter(source))
    return took_s < LONGEST_WAIT_S + 2 * (time.monotonic() - started_s)


def killed_and_started(server: RtspServer, times: int, seed: int) -> list[float]:
    """Restart the server repeatedly while it is read; return the time from each start to the next frame."""
    recoveries_s = []
    rng = np.random.default_rng(seed)
    with Reading(open_source(server.url)) as reading:
        reading.until_live()
        for _ in range(times):
            server.kill()
            reading.until_lost()
            time.sleep(rng.uniform(0, 1.2))  # so that the server returns at any point of a retry delay
            server.start()
            started_s = time.monotonic()
            reading.until_live()
            recoveries_s.append(time.monotonic() - started_s)
            assert is_soon(recoveries_s[-1], server.url)
        status = reading.source.status()
        assert reading.in_order
        assert (status.skipped, status.problem, status.size_wh) == (0, None, (960, 540))
        assert status.reconnects >= times
    return recoveries_s


def test_after_each_of_twenty_restarts_frames_resume_within_three_seconds() -> None:
    with RtspServer(demo_clip()) as one, RtspServer(demo_clip()) as other, ThreadPoolExecutor(2) as pool:
        found = pool.map(killed_and_started, (one, other), (10, 10), (5, 6))
        recoveries_s = sorted(one for recoveries in found for one in recoveries)
    print("recovered after", " ".join(f"{one:.2f}" for one in recoveries_s), "s")  # noqa: T201
    assert len(recoveries_s) == 20


def test_a_frozen_server_stalls_the_source_and_frames_resume_afterwards(server: RtspServer) -> None:
    with (
        RtspServer(demo_clip()) as well,
        Reading(open_source(server.url)) as reading,
        Reading(open_source(well.url)) as other,
    ):
        reading.until_live()
        other.until_live()
        server.freeze()
        eventually(lambda: reading.source.status().state == "stalled", "it is stalled", WAIT_S)
        reading.until_lost()
        status = reading.source.status()
        assert "has sent nothing for" in (status.problem or "")
        assert status.last_frame_age_s is not None and status.last_frame_age_s > 4
        frames = other.source.status().frames
        server.thaw()
        thawed_s = time.monotonic()
        reading.until_live()
        assert is_soon(time.monotonic() - thawed_s, server.url)
        assert reading.in_order
        eventually(lambda: other.source.status().frames > frames, "the other goes on", WAIT_S)
        assert (other.source.status().state, other.source.status().reconnects) == ("live", 0)


def test_a_slow_consumer_gets_current_frames(server: RtspServer) -> None:
    with open_source(server.url) as source:
        frames = iter(source)
        next(frames)
        eventually(lambda: source.status().dropped >= 40, "it falls behind", WAIT_S)
        dropped = source.status().dropped
        frame = next(frames)
        # All frames except the first were replaced; one or two more may have arrived since they were counted.
        assert dropped + 1 <= frame.index <= dropped + 5


def test_a_stream_that_ends_is_reopened(tmp_path: Path) -> None:
    with (
        RtspServer(beginning_of(demo_clip(), 1, tmp_path / "short.mp4")) as server,
        Reading(open_source(server.url)) as reading,
    ):
        eventually(lambda: reading.source.status().reconnects >= 2, "it is opened again", WAIT_S)
        assert reading.in_order


def test_a_password_is_sent_only_to_the_server_that_requires_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RtspServer(demo_clip(), user="admin", password="s3cret") as server:
        with pytest.raises(InputError, match="no video within 5 s: check the path, the user and the password"):
            open_source(server.url)
        with pytest.raises(InputError) as caught:
            open_source(server.url.replace("//", "//admin:wr0ng@"))
        with Reading(open_source(server.url.replace("//", "//admin:s3cret@"))) as reading:
            reading.until_live()
            server.kill()
            reading.until_lost()
            eventually(lambda: "nothing listens" in (reading.source.status().problem or ""), "it is tried", WAIT_S)
            told = [caplog.text, str(caught.value), repr(reading.source.status()), repr(reading.newest)]
            told += [thread.name for thread in threading.enumerate()]
    assert reading.source.name == server.url.replace("//", "//***@")
    assert not any(secret in text for text in told for secret in ("s3cret", "wr0ng"))


def test_ffmpeg_prints_no_password_on_standard_error(server: RtspServer) -> None:
    program = (
        "import sys\nfrom twincar_edge.errors import InputError\nfrom twincar_edge.runtime.sources import open_source\n"
        "with open_source(sys.argv[1]) as source:\n    print(next(iter(source)).name)\n"
        "try:\n    open_source(sys.argv[1] + 'nowhere')\nexcept InputError as error:\n    print(error)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV")}
    done = subprocess.run(
        [sys.executable, "-c", program, server.url.replace("//", "//admin:s3cret@")],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert "s3cret" not in done.stdout + done.stderr
    assert done.stdout.startswith(f"rtsp://***@127.0.0.1:{server.port}/live\ncannot open rtsp://***@")
    assert done.stderr == ""


def test_a_camera_that_starts_after_the_box_is_retried(server: RtspServer) -> None:
    server.kill()
    with Reading(open_source(server.url, keep_trying=True)) as reading:
        eventually(lambda: "nothing listens" in (reading.source.status().problem or ""), "it is tried", WAIT_S)
        server.start()
        started_s = time.monotonic()
        reading.until_live()
        assert is_soon(time.monotonic() - started_s, server.url)


@pytest.mark.parametrize(
    ("journal", "line"),
    [
        ({}, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO camera: 960x540 from rtsp://\*\*\*@127\.0\.0\.1:\d+/live$"),
        ({"JOURNAL_STREAM": "8:1"}, r"^<6>camera: 960x540 from rtsp://\*\*\*@127\.0\.0\.1:\d+/live$"),
    ],
)
def test_a_box_logs_the_cameras_format_and_no_password(journal: dict[str, str], line: str, tmp_path: Path) -> None:
    with RtspServer(demo_clip(), user="admin", password="s3cret") as server:
        url, store = server.url.replace("//", "//admin:s3cret@"), str(tmp_path / "store")
        command = [sys.executable, "-m", "twincar_edge", "watch", url, "--duration", "3", "--store", store]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | journal)
    assert re.search(line, done.stderr, re.MULTILINE)
    assert "s3cret" not in done.stdout + done.stderr
