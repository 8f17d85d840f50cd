"""Interleaved timing: subjects take turns, so that drift of the machine affects all alike. All samples are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.progress import Progress

Clock = Callable[[], float]
"""Returns monotonic seconds."""


@dataclass(frozen=True)
class Subject:
    """A subject to time: three steps, each of which takes the result of the previous one.

    `pre` takes the number of the run and returns the model's input, `infer` returns logits, `post` the answers.
    """

    pre: Callable[[int], Any]
    infer: Callable[[Any], Any]
    post: Callable[[Any], Any]


@dataclass(frozen=True)
class Sample:
    """One timed run, in milliseconds."""

    pre_ms: float
    infer_ms: float
    post_ms: float

    @property
    def total_ms(self) -> float:
        """Return the end-to-end time, from images to answers."""
        return self.pre_ms + self.infer_ms + self.post_ms


@dataclass(frozen=True)
class Schedule:
    """How many runs to measure: `warmup` unmeasured runs, then `rounds` of `per_round` runs of each subject.

    At the start of each turn, a subject runs once unmeasured, because the others have evicted its data from the caches.

    Raises:
        InputError: nothing would be measured.
    """

    warmup: int = 10
    rounds: int = 20
    per_round: int = 5

    def __post_init__(self) -> None:
        """Check that something is measured."""
        if self.warmup < 0 or self.rounds < 1 or self.per_round < 1:
            raise InputError(
                "rounds and runs per round must be 1 or more, and warm-up runs 0 or more, "
                f"found {self.rounds}, {self.per_round} and {self.warmup}"
            )


class Stopwatch:
    """Times one subject. Measured runs are numbered, so that the subject can cycle through its images."""

    def __init__(self, subject: Subject, clock: Clock = time.perf_counter) -> None:
        """Store the subject and the clock."""
        self._subject = subject
        self._clock = clock
        self._measured = 0

    def turn(self, runs: int, keep: bool) -> tuple[Sample, ...]:
        """Run `runs` times; return the samples, or nothing if `keep` is false.

        Raises:
            TwincarError: the subject fails.
        """
        samples = []
        for _ in range(runs):
            sample = self._run_once()
            if keep:
                samples.append(sample)
                self._measured += 1
        return tuple(samples)

    def _run_once(self) -> Sample:
        subject, clock = self._subject, self._clock
        start = clock()
        batch = subject.pre(self._measured)
        prepared = clock()
        logits = subject.infer(batch)
        inferred = clock()
        subject.post(logits)
        done = clock()
        return Sample((prepared - start) * 1e3, (inferred - prepared) * 1e3, (done - inferred) * 1e3)


@dataclass
class Turns:
    """Subjects that take turns, in this process or others. Results stay available if the measurement is interrupted.

    Attributes:
        turn: runs a subject, given its name, the number of runs, and whether to measure them; returns the samples.
        rounds: the samples of each subject, by round.
        failures: the errors of subjects that failed; they get no further turns, the others continue.
    """

    turn: Callable[[str, int, bool], tuple[Sample, ...]]
    rounds: dict[str, list[tuple[Sample, ...]]] = field(default_factory=dict)
    failures: dict[str, TwincarError] = field(default_factory=dict)

    def take(self, names: Iterable[str], schedule: Schedule, progress: Progress | None = None) -> None:
        """Warm up all subjects, then measure them in rounds; `progress` is called with (rounds done, all rounds)."""
        self.rounds.update((name, []) for name in names)
        for name in self.rounds:
            self._try(name, schedule.warmup, 0)
        for number in range(schedule.rounds):
            for name in self.rounds:
                self._try(name, 1, schedule.per_round)
            if progress is not None:
                progress(number + 1, schedule.rounds)

    def _try(self, name: str, unmeasured: int, measured: int) -> None:
        if name in self.failures:
            return
        try:
            self.turn(name, unmeasured, False)
            if measured:
                self.rounds[name].append(self.turn(name, measured, True))
        except TwincarError as error:
            self.failures[name] = error


def measure(
    subjects: Mapping[str, Subject],
    schedule: Schedule,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> dict[str, tuple[Sample, ...] | TwincarError]:
    """Time every subject in this process, in rounds.

    Args:
        subjects: what to time, by name.
        schedule: the number of runs.
        clock: the monotonic clock, in seconds.
        progress: called with (rounds done, all rounds).

    Returns:
        For each subject its samples, or its error. The other subjects continue after an error.
    """
    watches = {name: Stopwatch(subject, clock) for name, subject in subjects.items()}
    turns = Turns(lambda name, runs, keep: watches[name].turn(runs, keep))
    turns.take(subjects, schedule, progress)
    return {
        name: turns.failures.get(name) or tuple(sample for samples in turns.rounds[name] for sample in samples)
        for name in subjects
    }
