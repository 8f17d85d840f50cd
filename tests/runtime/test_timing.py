"""Timing with a fake clock: percentiles, turns, warm-up and failures."""

from __future__ import annotations

import numpy as np
import pytest

from twincar_edge.benchmarks import Latency, Schedule, Timing
from twincar_edge.errors import InputError, ModelError
from twincar_edge.runtime.timing import Sample, Stopwatch, Subject, Turns, measure


class FakeClock:
    """A clock that advances only when a step says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def takes(self, ms: float) -> None:
        self.now += ms / 1e3


class Recorder:
    """Subjects that record their runs and take a given time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.runs: list[tuple[str, int]] = []

    def subject(self, name: str, infer_ms: float = 4.0, fails_at: int | None = None) -> Subject:
        def pre(number: int) -> int:
            self.runs.append((name, number))
            self.clock.takes(1.0)
            return number

        def infer(number: int) -> int:
            if fails_at is not None and len([run for run in self.runs if run[0] == name]) > fails_at:
                raise ModelError(f"{name} broke")
            self.clock.takes(infer_ms)
            return number

        def post(number: int) -> None:
            self.clock.takes(0.5)

        return Subject(pre, infer, post)


def test_each_step_is_timed_separately() -> None:
    recorder = Recorder()
    [samples] = measure({"a": recorder.subject("a")}, Schedule(0, 1, 2), recorder.clock).values()
    assert isinstance(samples, tuple)
    for sample in samples:
        assert (sample.pre_ms, sample.infer_ms, sample.post_ms) == pytest.approx((1.0, 4.0, 0.5))
        assert sample.total_ms == pytest.approx(5.5)


def test_subjects_take_turns_after_all_have_warmed_up() -> None:
    recorder = Recorder()
    subjects = {name: recorder.subject(name) for name in "ab"}
    measure(subjects, Schedule(warmup=2, rounds=2, per_round=3), recorder.clock)
    order = "".join(name for name, _ in recorder.runs)
    assert order == "aa" + "bb" + 2 * ("a" + "aaa" + "b" + "bbb")  # one unmeasured run before each turn


def test_only_measured_runs_give_samples() -> None:
    recorder = Recorder()
    [samples] = measure({"a": recorder.subject("a")}, Schedule(7, 4, 3), recorder.clock).values()
    assert isinstance(samples, tuple)
    assert len(samples) == 12


def test_measured_runs_are_numbered_consecutively() -> None:
    recorder = Recorder()
    measure({"a": recorder.subject("a")}, Schedule(1, 2, 2), recorder.clock)
    assert [number for _, number in recorder.runs] == [0, 0, 0, 1, 2, 2, 3]


def test_a_failed_subject_gives_its_error_and_the_others_continue() -> None:
    recorder = Recorder()
    subjects = {"bad": recorder.subject("bad", fails_at=3), "good": recorder.subject("good")}
    found = measure(subjects, Schedule(1, 3, 2), recorder.clock)
    assert str(found["bad"]) == "bad broke"
    assert isinstance(found["good"], tuple) and len(found["good"]) == 6
    assert sum(name == "bad" for name, _ in recorder.runs) == 4  # no retry


def test_samples_from_before_an_interruption_are_kept() -> None:
    recorder = Recorder()
    watches = {name: Stopwatch(recorder.subject(name), recorder.clock) for name in "ab"}

    def turn(name: str, runs: int, keep: bool) -> tuple[Sample, ...]:
        if len(recorder.runs) >= 7:
            raise KeyboardInterrupt
        return watches[name].turn(runs, keep)

    turns = Turns(turn)
    with pytest.raises(KeyboardInterrupt):
        turns.take("ab", Schedule(warmup=0, rounds=9, per_round=2))
    assert {name: len(rounds) for name, rounds in turns.rounds.items()} == {"a": 1, "b": 1}
    assert turns.failures == {}


def test_progress_counts_rounds() -> None:
    recorder, seen = Recorder(), []
    measure({"a": recorder.subject("a")}, Schedule(0, 3, 1), recorder.clock, lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("numbers", [(-1, 1, 1), (0, 0, 1), (0, 1, 0)])
def test_a_schedule_that_measures_nothing_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="1 or more"):
        Schedule(*numbers)


def test_percentiles_are_those_of_the_samples() -> None:
    latency = Latency.of([float(value) for value in range(101)])
    assert (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms) == (50, 90, 95, 99)
    assert (latency.mean_ms, latency.min_ms) == (50, 0)
    skewed = Latency.of([1.0, 1.0, 1.0, 101.0])
    assert (skewed.p50_ms, skewed.mean_ms) == (1, 26)
    assert skewed.p99_ms == pytest.approx(np.percentile([1, 1, 1, 101], 99))


def test_fps_is_images_over_the_mean_total() -> None:
    timing = Timing.of([Sample(1, 7, 2), Sample(1, 17, 2)], batch=3)
    assert timing.total.mean_ms == 15
    assert timing.fps == pytest.approx(200)
    assert (timing.pre_samples_ms, timing.infer_samples_ms) == ((1, 1), (7, 17))
