"""Inference at a camera's pace, with a fake clock: answers in time, dropped frames and slowdown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from twincar_edge.benchmarks import CameraPace
from twincar_edge.benchmarks.paced import Clip, core_mhz, keep_pace
from twincar_edge.benchmarks.report import Paced
from twincar_edge.bundled import demo_clip
from twincar_edge.errors import InputError
from twincar_edge.runtime.timing import Subject


class Simulation:
    """A camera and a model that share a fake clock."""

    def __init__(self, infer_ms: Callable[[int], float]) -> None:
        self.now, self.busy = 50.0, 0.0
        self.slept = 0.0
        self.decoded: list[str] = []
        self.answered = 0
        self._infer_ms = infer_ms

    def clock(self) -> float:
        return self.now

    def processor(self) -> float:
        return self.busy

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds

    def work(self, ms: float) -> None:
        self.now += ms / 1e3
        self.busy += ms / 1e3

    def skip(self, frames: int) -> None:
        self.decoded += ["dropped"] * frames
        self.work(1.0 * frames)

    def next(self) -> NDArray[np.uint8]:
        self.decoded.append("seen")
        self.work(1.0)
        return np.zeros((8, 8, 3), np.uint8)

    def subject(self, image_bgr: NDArray[np.uint8]) -> Subject:
        def pre(_: int) -> None:
            self.work(2.0)

        def infer(_: object) -> None:
            self.work(self._infer_ms(self.answered))
            self.answered += 1

        return Subject(pre, infer, lambda _: self.work(1.0))

    def run(self, fps: float = 25, duration_s: float = 4) -> Paced:
        return keep_pace(
            self, self.subject, CameraPace(fps, duration_s),
            clock=self.clock, sleep=self.sleep, processor=self.processor, mhz=lambda: 2600.0 - self.answered,
        )  # fmt: skip


def test_a_fast_model_answers_every_frame_and_sleeps_in_between() -> None:
    simulation = Simulation(lambda _: 6.0)
    found = simulation.run()
    assert (found.frames, found.answered, found.in_time) == (100, 100, 1.0)
    assert found.sustained_fps == pytest.approx(25)
    assert found.latency.p99_ms == pytest.approx(10)  # decode 1, pre 2, infer 6, post 1
    assert (found.decode.p50_ms, found.pre.p50_ms) == pytest.approx((1, 2))
    assert (found.infer.p50_ms, found.post.p50_ms) == pytest.approx((6, 1))
    assert simulation.slept == pytest.approx(99 * 0.030)  # after each frame but the last, until the next one
    assert found.cores_busy == pytest.approx(0.25)
    assert found.slowdown == pytest.approx(1)
    assert len(found.latency_samples_ms) == 100


def test_frames_during_inference_are_dropped_except_the_newest() -> None:
    simulation = Simulation(lambda _: 96.0)  # 100 ms per frame, with a new frame every 40 ms
    found = simulation.run(duration_s=2)
    assert found.frames == 50
    assert found.answered == simulation.answered == pytest.approx(20, abs=1)
    assert found.in_time == 0
    assert found.sustained_fps < 11
    assert simulation.decoded.count("dropped") + simulation.decoded.count("seen") <= 50  # each frame is decoded once
    assert found.latency.p50_ms < 200  # at most one answer behind: no queue builds up


def test_throttling_is_measured_as_the_slowdown_of_the_last_tenth() -> None:
    found = Simulation(lambda frame: 6.0 if frame < 90 else 26.0).run()
    assert found.slowdown == pytest.approx(3.0)  # 30 ms of work per frame instead of 10
    assert (found.mhz_first, found.mhz_last) == (2590, 2500)


def test_a_late_answer_does_not_delay_the_next() -> None:
    found = Simulation(lambda frame: 46.0 if frame == 3 else 6.0).run(duration_s=1)
    assert (found.answered, found.in_time) == (25, 24 / 25)


@pytest.mark.parametrize("figures", [(0, 1), (25, 0), (2000, 1), (float("nan"), 1), (0.5, 1), (25, 1e10)])
def test_a_pace_without_frames_or_end_is_rejected(figures: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="camera"):
        CameraPace(*figures)


def test_a_clip_is_repeated_after_its_end() -> None:
    clip = Clip(demo_clip())
    first = clip.next()
    clip.skip(1305)
    assert clip.next().shape == first.shape


def test_a_file_that_is_not_a_video_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    for path in (tmp_path / "clip.mp4", tmp_path / "absent.mp4"):
        with pytest.raises(InputError, match="cannot read the video"):
            Clip(path)


def test_the_clock_rate_of_the_cores_is_read_from_the_system(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert core_mhz(nothing, nothing) is None
    (tmp_path / "cpuinfo").write_text("processor : 0\ncpu MHz\t\t: 2000.5\nprocessor : 1\ncpu MHz\t\t: 3000.5\n")
    assert core_mhz(nothing, tmp_path / "cpuinfo") == 2500.5
    for core, khz in enumerate((1_800_000, 2_400_000)):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    assert core_mhz(tmp_path, nothing) == 2100
