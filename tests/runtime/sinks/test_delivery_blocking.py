"""If all sources of a run can wait, a slow reader slows the run and loses nothing; a camera never waits."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.runtime.sinks.test_delivery import Receiver, delivery, ids
from tests.support.clips import RED_BGR, as_frames, drive_by, film
from tests.support.event_toys import CROP, eventually, visit, visits
from tests.support.tiny_model import tiny_model
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.monitoring.status import SinkStatus
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks import DeliveryError, JsonLines, opening
from twincar_edge.runtime.sinks import backlog as backlog_module
from twincar_edge.runtime.sinks.settings import StdoutSettings
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.sources import KINDS, FrameSource, Source
from twincar_edge.runtime.sources import Kind as SourceKind
from twincar_edge.runtime.watch import WatchSummary

LIMIT = 4
IMAGES = 40


# --- the queue ---


def test_with_wait_for_room_a_full_queue_blocks_and_loses_nothing() -> None:
    events = visits(60)
    sink, most = Receiver(lambda _event: time.sleep(0.002)), 0
    with delivery(sink, limit=LIMIT, retry=False) as sending:
        sending.wait_for_room()
        for event in events:
            sending.put(event)
            most = max(most, sending.status().queued)
    assert sink.got == ids(events)
    assert sending.status().dropped == 0
    assert most <= LIMIT + 1  # the sender holds one of them


def test_a_delivery_with_a_spool_never_blocks(tmp_path: Path) -> None:
    hang = threading.Event()
    sending = delivery(Receiver(lambda _event: hang.wait()), tmp_path / "spool", limit=LIMIT, drain_s=0.0)
    with sending:
        sending.wait_for_room()
        for event in visits(40):
            sending.put(event)
            eventually(lambda: sending.status().queued < LIMIT, "room in memory, as the disk takes what waits")
        assert sending.status().dropped == 0
        hang.set()


def test_a_disk_that_hangs_as_the_spool_is_closed_does_not_keep_the_run_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, free, closed = threading.Event(), threading.Event(), threading.Event()
    close = Spool.close

    def hang(spool: Spool) -> None:
        hangs.set()
        free.wait(20)
        close(spool)
        closed.set()

    monkeypatch.setattr(Spool, "close", hang)
    sink = Receiver()
    sending = delivery(sink, tmp_path / "spool")
    with sending:
        sending.put(visit())
        eventually(lambda: len(sink.got) == 1, "the event is delivered")
    assert hangs.is_set() and not closed.is_set()
    assert sending.status().dropped == 0
    free.set()
    sending._writer.join()


class _BlockedDelivery:
    """A thread that puts more events into a queue than fit, while the sink hangs."""

    def __init__(self, **options: object) -> None:
        self.stop, self.hang = threading.Event(), threading.Event()
        self.sink = Receiver(self._react)
        self.gone = False
        self.delivery = delivery(self.sink, limit=LIMIT, retry=False, drain_s=None, stop=self.stop, **options)
        self.thread = threading.Thread(target=self._put, daemon=True)

    def _react(self, _event: Event) -> None:
        self.hang.wait()
        if self.gone:
            raise BrokenPipeError

    def _put(self) -> None:
        for event in visits(3 * LIMIT):
            self.delivery.put(event)

    def begin(self) -> None:
        self.delivery.wait_for_room()
        self.thread.start()
        eventually(lambda: self.delivery.status().queued == LIMIT + 1, "the queue is full")
        assert self.thread.is_alive()
        assert self.delivery.status().dropped == 0


def test_stopping_a_run_ends_the_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "DRAIN_S", 0.1)
    messages: list[str] = []
    blocked = _BlockedDelivery(messages=messages)
    try:
        with blocked.delivery:
            blocked.begin()
            blocked.stop.set()
            blocked.thread.join(20)
            assert not blocked.thread.is_alive()
        # The context ended while the sink still hangs.
        assert messages == [f"receiver: {LIMIT + 1} events lost at shutdown: too slow"]
        assert blocked.delivery.status().dropped == 3 * LIMIT
    finally:
        blocked.hang.set()


def test_stopping_a_run_ends_the_unlimited_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "DRAIN_S", 0.1)
    blocked = _BlockedDelivery()
    blocked.delivery.__enter__()
    blocked.delivery.put(visit())
    closing = threading.Thread(target=blocked.delivery.close, daemon=True)
    closing.start()
    try:
        closing.join(0.3)
        assert closing.is_alive()  # as long as the sink needs
        blocked.stop.set()
        closing.join(20)
        assert not closing.is_alive()
    finally:
        blocked.hang.set()


def test_a_closed_reader_ends_the_wait_for_room() -> None:
    called = threading.Event()
    blocked = _BlockedDelivery(on_gone=called.set)
    with blocked.delivery:
        blocked.begin()
        blocked.gone = True
        blocked.hang.set()
        blocked.thread.join(20)
        assert not blocked.thread.is_alive()
        assert called.is_set()
    assert blocked.delivery.status().dropped == 3 * LIMIT


# --- a stream ---


def test_a_line_truncated_by_a_full_disk_does_not_run_into_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, room = tmp_path / "events.jsonl", os.write, [100]

    def write_what_fits(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write_what_fits)
    with path.open("w") as stream, JsonLines(stream) as sink:
        with pytest.raises(DeliveryError, match="No space left"):
            sink.write(visit(id="1"), CROP)
        room[0] = 10_000
        sink.write(visit(id="2"), CROP)
    torn, whole = path.read_text("utf-8").splitlines()
    assert torn == visit(id="1").to_json()[:100]
    assert Event.model_validate_json(whole) == visit(id="2")


def test_a_non_blocking_stream_is_written_completely() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    events, got = visits(200), []
    with os.fdopen(read_end, encoding="utf-8") as reader:
        thread = threading.Thread(target=lambda: got.extend(reader), daemon=True)
        thread.start()
        with os.fdopen(write_end, "w") as stream, JsonLines(stream) as sink:
            for event in events:
                sink.write(event, CROP)
        thread.join(20)
    assert [Event.model_validate_json(line).id for line in got] == ids(events)


# --- a run ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of pictures, each of which is a visit."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(IMAGES):
        cv2.imwrite(str(folder / f"car_{number:03d}.jpg"), np.full((40, 60, 3), RED_BGR, np.uint8))
    return folder


class Pipe:
    """A real pipe with a buffer of one page, for standard output."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, 4096)

    def read(self, pause_s: float, into: bytearray) -> None:
        """Read slowly, to the end."""
        while data := os.read(self.read_end, 512):
            into += data
            time.sleep(pause_s)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    stdout = opening.SINKS["stdout"]
    monkeypatch.setitem(opening.SINKS, "stdout", replace(stdout, policy=replace(stdout.policy, limit=LIMIT)))
    made = Pipe()
    yield made
    os.close(made.read_end)


def watch_into(pipe: Pipe, config: WatchConfig, stop: threading.Event | None = None) -> tuple[WatchSummary, SinkStatus]:
    """Run with the pipe as standard output."""
    with os.fdopen(pipe.write_end, "w") as stream, contextlib.redirect_stdout(stream):
        with Service(config, stop=stop) as service:
            summary = service.run()
        return summary, service.status().sinks[0]


def configured(model: Path, source: object) -> WatchConfig:
    camera = CameraConfig(source=str(source), once=True)
    return WatchConfig(cameras=(camera,), model=model, ep="cpu", threads=1, batch=2, sinks=(StdoutSettings(),))


def test_a_slow_reader_of_a_run_over_a_folder_gets_every_event(model: Path, images: Path, pipe: Pipe) -> None:
    got = bytearray()
    reader = threading.Thread(target=pipe.read, args=(0.002, got), daemon=True)
    reader.start()
    summary, sink = watch_into(pipe, configured(model, images))
    reader.join(20)
    assert summary.visits == IMAGES
    assert (sink.delivered, sink.dropped) == (IMAGES, 0)
    lines = got.decode("utf-8").splitlines()
    assert [Event.model_validate_json(line).image for line in lines] == [f"car_{n:03d}.jpg" for n in range(IMAGES)]


def test_a_live_camera_never_waits_for_a_reader(
    model: Path, tmp_path: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Live(FrameSource):
        live = True

    monkeypatch.setattr(backlog_module, "DRAIN_S", 0.1)
    pictures = film([drive_by(RED_BGR, 40 * n + 10) for n in range(12)], 500)
    stop = threading.Event()

    def open_live(_spec: str, _options: object) -> Source:
        return Live(paced(as_frames(pictures)))

    def paced(frames: list) -> Iterator:  # slow enough for the model to classify each car
        for frame in frames:
            time.sleep(0.002)
            yield frame
        stop.set()

    monkeypatch.setitem(KINDS, "video", SourceKind(lambda _spec: True, open_live))
    (tmp_path / "live").touch()
    summary, sink = watch_into(pipe, configured(model, tmp_path / "live"), stop)  # nobody reads
    assert summary.frames == 500
    assert summary.visits > LIMIT + 5
    assert sink.dropped == summary.visits - sink.delivered > 0


# --- the command ---

_PROGRAM = f"""
import sys
from dataclasses import replace
from twincar_edge.cli import main
from twincar_edge.runtime.sinks.opening import SINKS
SINKS["stdout"] = replace(SINKS["stdout"], policy=replace(SINKS["stdout"].policy, limit={LIMIT}))
main(["watch", *sys.argv[1:]])
"""


@pytest.fixture
def stuck(model: Path, images: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command, blocked because its reader does not read, and the reader's end of the pipe."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    arguments = [images / "*.jpg", "--model", model, "--threads", 1, "--batch", 2]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)], stdout=write_end, stderr=subprocess.PIPE
    )
    os.close(write_end)
    try:
        eventually(lambda: _unread(read_end) > 2000, "the pipe is full", 60)
        time.sleep(0.5)  # let the queue fill up too
        assert process.poll() is None
        yield process, read_end
    finally:
        process.kill()
        process.communicate()


def _unread(descriptor: int) -> int:
    count = bytearray(4)
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return int.from_bytes(count, sys.byteorder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_a_run_that_is_blocked_by_its_reader(
    number: int, code: int, stuck: tuple[subprocess.Popen[bytes], int]
) -> None:
    process, read_end = stuck
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    os.close(read_end)
    assert process.returncode == code, errors
    assert b"events lost at shutdown: too slow" in errors
    assert b"visits in" in errors
    assert b"Fatal" not in errors
    assert b"Traceback" not in errors


def test_a_closed_reader_ends_a_run_that_is_blocked_by_it(stuck: tuple[subprocess.Popen[bytes], int]) -> None:
    process, read_end = stuck
    os.close(read_end)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
