"""Live sources with scripted captures: which frames are delivered, and how failures are handled."""

from __future__ import annotations

import contextlib
import itertools
import queue
import random
import threading
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from tests.support.event_toys import eventually
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import Frame, SourceStatus, live
from twincar_edge.runtime.sources.capture import open_within
from twincar_edge.runtime.sources.live import LiveSource
from twincar_edge.runtime.sources.live_rules import LiveRules
from twincar_edge.runtime.sources.unchanged import MANY

SIZE_WH = (64, 48)
WAIT_S = 20.0  # timeout for what happens immediately
OVER = threading.Event()
Step = int | str | Exception | Callable[[], bool]


class Scripted:
    """A capture that follows a script step by step, and blocks until the next step, as a camera does.

    A step is a picture's number, "damaged" for one that cannot be decoded, "end", an error to raise, or a function
    that grab calls.
    """

    def __init__(self, *steps: Step, size_wh: tuple[int, int] = SIZE_WH) -> None:
        self.size_wh = size_wh
        self.released = threading.Event()
        self.sent = self.grabs = 0
        self.decoded: list[int] = []
        self._steps: queue.Queue[Step] = queue.Queue()
        self._now: Step = "end"
        for step in steps:
            self.send(step)

    def send(self, step: Step) -> None:
        self.sent += 1
        self._steps.put(step)

    def isOpened(self) -> bool:
        return not self.released.is_set()

    def get(self, what: int, /) -> float:
        return {cv2.CAP_PROP_FPS: 25.0}.get(what, 0.0)

    def grab(self) -> bool:
        self._now = self._next()
        self.grabs += 1
        if isinstance(self._now, Exception):
            raise self._now
        return self._now() if callable(self._now) else self._now != "end"

    def _next(self) -> Step:
        while not OVER.is_set():
            with contextlib.suppress(queue.Empty):
                return self._steps.get(timeout=0.01)
        return "end"

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        if not isinstance(self._now, int):
            return False, None
        self.decoded.append(self._now)
        return True, np.full((self.size_wh[1], self.size_wh[0], 3), self._now, np.uint8)

    def release(self) -> None:
        self.released.set()


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """A live source with prepared captures. Delays between retries are recorded, and only advance the fake clock."""

    def __init__(
        self, *captures: Scripted | InputError, stride: int = 1, rules: LiveRules | None = None, opened: bool = False
    ) -> None:
        self.clock = Clock()
        self.stop = threading.Event()
        self.waits_s: list[float] = []
        self.captures: queue.Queue[Scripted | InputError] = queue.Queue()
        for capture in captures:
            self.captures.put(capture)
        first = self.captures.get() if opened else None
        assert not isinstance(first, InputError)
        self.source = LiveSource(
            "rtsp://admin:secret@gate/live",
            self.open,
            kind="stream",
            stride=stride,
            stop=self.stop,
            opened=first,
            rules=rules,
            monotonic=self.clock,
            rng=random.Random(7),
            wait=self.wait,
        )

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        OVER.set()  # wakes a camera that waits for its next step
        self.source.release()
        OVER.clear()

    @property
    def status(self) -> SourceStatus:
        return self.source.status()

    def open(self) -> Scripted:
        while not OVER.is_set():
            with contextlib.suppress(queue.Empty):
                capture = self.captures.get(timeout=0.01)
                if isinstance(capture, InputError):
                    raise capture
                return capture
        raise InputError("the test is over")

    def wait(self, seconds: float) -> bool:
        self.waits_s.append(seconds)
        self.clock.now_s += seconds
        return OVER.is_set()


def number(frame: Frame) -> int:
    return int(frame.image_bgr[0, 0, 0])


# --- which frames are delivered ---


def test_a_waiting_consumer_is_called_until_there_is_a_frame() -> None:
    camera = Scripted()
    waited: list[threading.Thread] = []

    def wait() -> None:
        waited.append(threading.current_thread())
        if len(waited) == 3:
            camera.send(0)

    with Rig(camera) as rig:
        rig.source.on_wait = wait
        assert next(iter(rig.source)).index == 0
    assert set(waited) == {threading.current_thread()}


def test_a_camera_whose_picture_never_changes_is_reported_as_frozen_until_it_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class EverySecond(Scripted):
        def grab(self) -> bool:
            grabbed = super().grab()
            rig.clock.now_s += 1
            return grabbed

    camera = EverySecond()
    with Rig(camera) as rig:
        for _ in range(30):  # a scene can be still for a while
            camera.send(7)
        eventually(lambda: rig.status.dropped == 29, "they are looked at", WAIT_S)
        assert (rig.status.state, rig.status.problem, rig.status.skipped) == ("live", None, 0)
        for _ in range(5):
            camera.send(7)
        eventually(lambda: rig.status.skipped == 5, "they are left out", WAIT_S)
        assert (rig.status.state, rig.status.last_frame_age_s) == ("stalled", 34)
        assert "has sent the same picture, byte for byte, for 30 s" in (rig.status.problem or "")
        assert rig.source.skip_reasons == {"unchanged picture": 5}
        camera.send(8)
        eventually(lambda: rig.status.state == "live", "it is back", WAIT_S)
        assert (rig.status.problem, rig.status.skipped) == (None, 5)
    assert caplog.text.count("same picture") == 1


def test_a_few_identical_pictures_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    camera = Scripted(*[7] * (MANY - 1))
    with Rig(camera, rules=LiveRules(frozen_s=0)) as rig:
        eventually(lambda: rig.status.dropped == MANY - 2, "they are looked at", WAIT_S)
        assert rig.status.problem is None
        camera.send(7)
        eventually(lambda: rig.status.skipped == 1, "the next is one too many", WAIT_S)


def test_a_slow_consumer_gets_the_newest_frame_and_dropped_ones_are_counted() -> None:
    camera = Scripted()
    with Rig(camera) as rig:
        frames = iter(rig.source)
        given, dropped = [], 0
        for burst in (1, 7, 1, 21):
            for _ in range(burst):
                camera.send(camera.sent)
            dropped += burst - 1
            eventually(lambda expected=dropped: rig.status.dropped == expected, "they are replaced", WAIT_S)
            given.append(next(frames))
        assert [frame.index for frame in given] == [0, 7, 8, 29]
        assert [number(frame) for frame in given] == [0, 7, 8, 29]
        assert (rig.status.frames, rig.status.dropped, rig.status.skipped) == (4, 26, 0)
        assert (rig.status.size_wh, rig.status.fps) == (SIZE_WH, 25.0)


def test_a_fast_consumer_waits_for_a_newer_frame() -> None:
    camera = Scripted(0)
    with Rig(camera) as rig:
        frames = iter(rig.source)
        assert next(frames).index == 0
        later = threading.Timer(0.1, camera.send, (1,))
        later.start()
        assert next(frames).index == 1
        later.join()
        assert rig.status.dropped == 0


def test_a_stride_counts_the_sources_frames_and_decodes_only_its_own() -> None:
    camera = Scripted()
    with Rig(camera, stride=3) as rig:
        frames = iter(rig.source)
        given = []
        for index in range(10):
            camera.send(index)
            if index % 3 == 0:
                given.append(next(frames).index)
        assert given == [0, 3, 6, 9]
        assert camera.decoded == [0, 3, 6, 9]
        assert rig.status.dropped == 0


def test_an_undecodable_frame_counts_as_skipped_and_not_as_dropped() -> None:
    camera = Scripted(0, "damaged", "damaged")
    with Rig(camera) as rig:
        frames = iter(rig.source)
        eventually(lambda: rig.status.skipped == 2, "they are skipped", WAIT_S)
        assert next(frames).index == 0
        camera.send(3)
        assert next(frames).index == 3
        assert (rig.status.skipped, rig.status.dropped) == (2, 0)
        assert rig.source.skip_reasons == {"undecodable frame": 2}


def test_a_camera_with_many_damaged_frames_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with Rig(Scripted(*[0, "damaged"] * 100)) as rig:
        eventually(lambda: rig.status.skipped == 100, "they are skipped", WAIT_S)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 7  # the 1st, 2nd, 4th, …, 64th
    assert lines[0] == "skipped: frame 1 of rtsp://***@gate/live cannot be decoded"
    assert lines[-1] == "skipped: frame 127 of rtsp://***@gate/live cannot be decoded (64 so far)"


@pytest.mark.parametrize("end", [lambda rig: rig.stop.set(), lambda rig: rig.source.release()], ids=["stop", "release"])
def test_stopping_wakes_a_waiting_consumer_and_releases_the_camera(end: Callable[[Rig], None]) -> None:
    camera = Scripted(0)
    with Rig(camera) as rig:
        frames = iter(rig.source)
        assert next(frames).index == 0
        later = threading.Timer(0.1, end, (rig,))
        later.start()
        assert next(frames, None) is None
        later.join()
        assert rig.status.state == "ended"
        camera.send(1)  # the frame that the consumer waited for
        eventually(camera.released.is_set, "it is given back", WAIT_S)
        camera.send(2)
        assert camera.decoded == [0]
    assert readers() == []


def test_a_source_that_is_not_iterated_is_read_and_released_too() -> None:
    camera = Scripted(0, 1, 2)
    with Rig(camera, opened=True) as rig:
        eventually(lambda: rig.status.dropped == 2, "it reads", WAIT_S)
        assert rig.status.frames == 0
    assert camera.released.is_set()


# --- failures ---


def test_frame_numbers_and_times_continue_after_a_reconnect() -> None:
    cameras = [Scripted(one) for one in range(3)]
    with Rig(*cameras) as rig:
        frames = iter(rig.source)
        given = []
        for reconnects, camera in enumerate(cameras):
            given.append(next(frames))
            assert (rig.status.reconnects, rig.status.state) == (reconnects, "live")
            rig.clock.now_s += 0.04
            camera.send("end")
        assert [frame.index for frame in given] == [number(frame) for frame in given] == [0, 1, 2]
        assert all(one.time_s < other.time_s for one, other in itertools.pairwise(given))
        eventually(cameras[2].released.is_set, "the lost connection is closed", WAIT_S)


def test_a_frame_from_before_the_end_is_still_delivered() -> None:
    with Rig(Scripted(5, "end")) as rig:
        eventually(lambda: rig.status.state == "waiting", "it is lost", WAIT_S)
        assert number(next(iter(rig.source))) == 5


def test_retries_start_soon_and_continue_every_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused = InputError("cannot open rtsp://admin:secret@gate/live: nothing listens")
    with Rig(*[refused] * 40, Scripted(0)) as rig:
        assert next(iter(rig.source)).index == 0
        assert 0.125 <= rig.waits_s[0] <= 0.25
        assert 0.25 <= rig.waits_s[1] <= 0.5
        assert all(0.5 <= wait_s <= 1 for wait_s in rig.waits_s[2:])
        assert len(set(rig.waits_s)) == 40  # jitter
        assert rig.status.problem is None
    # A camera may be down for a week: one line when it fails, and one when it is back.
    assert [record.getMessage() for record in caplog.records] == [
        "cannot open rtsp://***@gate/live: nothing listens; trying again until it works",
        "rtsp://***@gate/live is back",
    ]


def test_the_state_says_whether_frames_arrive_or_what_is_wrong() -> None:
    first, second = Scripted(), Scripted()
    with Rig(first, InputError("cannot open rtsp://admin:secret@gate/live"), second) as rig:
        frames = iter(rig.source)
        assert (rig.status.state, rig.status.last_frame_age_s) == ("opening", None)
        first.send(0)
        next(frames)
        assert (rig.status.state, rig.status.last_frame_age_s) == ("live", 0)
        rig.clock.now_s += 3
        assert (rig.status.state, rig.status.last_frame_age_s) == ("stalled", 3)
        first.send(1)
        next(frames)
        assert rig.status.state == "live"
        first.send("end")
        eventually(lambda: rig.status.problem == "cannot open rtsp://***@gate/live", "it is tried again", WAIT_S)
        assert rig.status.state == "waiting"
        second.send(2)
        next(frames)
        assert (rig.status.state, rig.status.problem, rig.status.reconnects) == ("live", None, 1)


def test_a_camera_that_was_never_opened_is_retried() -> None:
    with Rig(InputError("no device /dev/video0")) as rig:
        eventually(lambda: rig.status.problem == "no device /dev/video0", "it fails", WAIT_S)
        assert rig.status.state == "waiting"


def test_a_flapping_camera_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with Rig(*[Scripted(0, "end") for _ in range(30)]) as rig:
        eventually(lambda: rig.status.reconnects == 29, "they are all used up", WAIT_S)
    assert len(caplog.records) <= 3


def test_after_a_steady_day_an_outage_is_logged_again_and_the_first_retry_is_quick_again() -> None:
    rules = LiveRules(steady_s=60)
    cameras = [Scripted(), *[Scripted("end") for _ in range(5)], Scripted()]
    with Rig(*cameras, rules=rules) as rig:
        frames = iter(rig.source)
        cameras[0].send("end")
        eventually(lambda: rig.status.reconnects == 6, "the last one is open", WAIT_S)
        assert rig.waits_s[-1] > 0.5
        cameras[-1].send(0)
        next(frames)
        rig.clock.now_s += 61
        cameras[-1].send("end")
        eventually(lambda: len(rig.waits_s) == 7, "it is tried again", WAIT_S)
        assert rig.waits_s[-1] <= 0.25


def test_a_grab_that_took_the_whole_timeout_counts_as_failed() -> None:
    rig_clock: list[Clock] = []

    def late() -> bool:
        rig_clock[0].now_s += 5.01
        return True

    silent = Scripted(0)
    with Rig(silent, Scripted(7)) as rig:
        rig_clock.append(rig.clock)
        frames = iter(rig.source)
        assert number(next(frames)) == 0
        silent.send(late)
        assert number(next(frames)) == 7
        assert (rig.status.reconnects, rig.status.skipped) == (1, 0)


def test_an_opencv_error_is_a_lost_stream_and_other_errors_are_not_hidden() -> None:
    with Rig(Scripted(cv2.error("decoder\nfailed")), Scripted(1)) as rig:
        assert number(next(iter(rig.source))) == 1
    with Rig(Scripted(ZeroDivisionError("ours"))) as rig, pytest.raises(ZeroDivisionError, match="ours"):
        next(iter(rig.source))


def test_a_stream_with_only_damaged_pictures_is_reopened() -> None:
    rules = LiveRules(undecodable=5)
    with Rig(Scripted(*["damaged"] * 5), Scripted(1), rules=rules) as rig:
        assert number(next(iter(rig.source))) == 1
        assert rig.status.skipped == 5


def test_a_change_of_the_frame_size_is_accepted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Scripted(0), Scripted(1, size_wh=(32, 24))
    with Rig(first, second) as rig:
        frames = iter(rig.source)
        assert next(frames).image_bgr.shape == (48, 64, 3)
        first.send("end")
        assert next(frames).image_bgr.shape == (24, 32, 3)
        assert rig.status.size_wh == (32, 24)
    assert "now sends 32x24 instead of 64x48" in caplog.text


def test_a_size_that_keeps_changing_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    captures = [Scripted(0, size_wh=(32 + 16 * (index % 2), 24)) for index in range(40)]
    with Rig(*captures) as rig:
        frames = iter(rig.source)
        for capture in captures:
            next(frames)
            capture.send("end")
    assert caplog.text.count(" now sends ") == 6  # of 39 changes: the 1st, 2nd, 4th, 8th, 16th and 32nd


# --- hanging captures ---


def test_a_read_that_hangs_forever_is_abandoned_and_delivers_nothing_later() -> None:
    wake = threading.Event()

    def hang() -> bool:
        wake.wait(WAIT_S)
        return True

    hung, other = Scripted(0, hang, 66, 67), Scripted(1)
    with Rig(hung, other) as rig:
        frames = iter(rig.source)
        assert number(next(frames)) == 0
        eventually(lambda: hung.grabs == 2, "it hangs", WAIT_S)
        rig.clock.now_s += 10.1
        assert number(next(frames)) == 1
        assert (rig.status.state, rig.status.reconnects) == ("live", 1)
        wake.set()
        eventually(hung.released.is_set, "it wakes, and gives its connection back", WAIT_S)
        other.send(2)
        frame = next(frames)
        assert (number(frame), frame.index, rig.status.dropped) == (2, 2, 0)
        assert hung.grabs == 2


def test_a_hanging_open_is_abandoned_and_closed_if_it_succeeds_later() -> None:
    wake = threading.Event()
    late, other = Scripted(66), Scripted(1)
    with Rig() as rig:
        opening = rig.open

        def hang() -> Scripted:
            rig.source._open_capture = opening
            wake.wait(WAIT_S)
            return late

        rig.source._open_capture = hang
        rig.captures.put(InputError("so that it is opened again"))
        frames = iter(rig.source)
        eventually(lambda: rig.source._open_capture == opening, "it hangs", WAIT_S)
        rig.captures.put(other)
        rig.clock.now_s += 10.1
        assert number(next(frames)) == 1
        wake.set()
        eventually(late.released.is_set, "it is closed", WAIT_S)
        assert late.grabs == 0


def test_the_number_of_abandoned_threads_is_limited_and_the_first_to_wake_continues() -> None:
    wake = threading.Event()

    def hang() -> bool:
        wake.wait(WAIT_S)
        return True

    rules = LiveRules(most_hung=2)
    cameras = [Scripted(hang) for _ in range(3)]
    with Rig(*cameras, Scripted(9), rules=rules) as rig:
        taken: list[Frame] = []
        consumer = threading.Thread(target=lambda: taken.append(next(iter(rig.source))))
        consumer.start()
        for camera in cameras:
            eventually(lambda camera=camera: camera.grabs == 1, "it hangs", WAIT_S)
            rig.clock.now_s += 10.1
        eventually(lambda: "hangs in its driver" in (rig.status.problem or ""), "it says so", WAIT_S)
        assert len(readers()) == 3
        assert rig.status.state == "waiting"
        wake.set()
        consumer.join(WAIT_S)
        assert [number(frame) for frame in taken] == [9]


def test_release_does_not_wait_for_a_hanging_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RELEASE_S", 0.01)
    wake = threading.Event()
    camera = Scripted(lambda: wake.wait(WAIT_S))
    with Rig(camera):
        eventually(lambda: camera.grabs == 1, "it hangs", WAIT_S)
    assert not camera.released.is_set()  # a thread is in it
    wake.set()
    eventually(camera.released.is_set, "it is given back", WAIT_S)


def test_a_hanging_camera_does_not_stop_the_others() -> None:
    wake = threading.Event()
    other = Scripted()
    with Rig(Scripted(lambda: wake.wait(WAIT_S))), Rig(other) as rig:
        frames = iter(rig.source)
        for index in range(50):
            other.send(index)
            assert next(frames).index == index
        wake.set()


# --- opening at the start ---


def test_an_open_that_times_out_is_a_one_line_error_and_is_closed_if_it_succeeds_later() -> None:
    wake = threading.Event()
    camera = Scripted()

    def slow() -> Scripted:
        wake.wait(WAIT_S)
        return camera

    with pytest.raises(InputError, match="unplug it"):
        open_within(0.01, slow, "it hangs: unplug it")
    wake.set()
    eventually(camera.released.is_set, "it is closed", WAIT_S)
    assert open_within(WAIT_S, lambda: camera, "") is camera
    with pytest.raises(InputError, match="refused"):
        open_within(WAIT_S, raising(InputError("refused")), "")


def raising(error: Exception) -> Callable[[], Scripted]:
    def call() -> Scripted:
        raise error

    return call


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read rtsp")]
