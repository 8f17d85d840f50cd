"""Timing in turns: every subject meets the same drift of the machine, and every sample is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.progress import Progress

Clock = Callable[[], float]
"""Returns seconds on a scale that never runs backwards."""


@dataclass(frozen=True)
class Subject:
    """What is timed: three steps, each taking what the one before it gave.

    `pre` takes the number of the run and gives the model's input, `infer` gives logits, `post` gives the answers.
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
        """Return the time from images to answers."""
        return self.pre_ms + self.infer_ms + self.post_ms


@dataclass(frozen=True)
class Schedule:
    """How often is measured: `warmup` runs that do not count, then `rounds` of `per_round` runs of each subject.

    Before each of its turns a subject runs once more without counting: the others have used the caches since.

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
                "rounds and runs per round must be 1 or more and warm-up 0 or more, "
                f"found {self.rounds}, {self.per_round} and {self.warmup}"
            )


class Stopwatch:
    """Times one subject, run after run; runs that count are numbered, so that images take turns."""

    def __init__(self, subject: Subject, clock: Clock = time.perf_counter) -> None:
        """Take the subject, and what gives the time in seconds."""
        self._subject = subject
        self._clock = clock
        self._counted = 0

    def turn(self, runs: int, keep: bool) -> tuple[Sample, ...]:
        """Run `runs` times; returns the samples, or none where they do not count.

        Raises:
            TwincarError: the subject fails.
        """
        samples = []
        for _ in range(runs):
            sample = self._run_once()
            if keep:
                samples.append(sample)
                self._counted += 1
        return tuple(samples)

    def _run_once(self) -> Sample:
        subject, clock = self._subject, self._clock
        start = clock()
        batch = subject.pre(self._counted)
        prepared = clock()
        logits = subject.infer(batch)
        inferred = clock()
        subject.post(logits)
        done = clock()
        return Sample((prepared - start) * 1e3, (inferred - prepared) * 1e3, (done - inferred) * 1e3)


@dataclass
class Turns:
    """Subjects that take turns, wherever they run; what was measured so far stands here even if the rest never comes.

    Attributes:
        turn: lets a subject run: its name, how often, and whether it counts; gives the samples that count.
        rounds: the samples of each subject, round by round.
        failures: the errors with which subjects failed; these have no further turns, the others go on.
    """

    turn: Callable[[str, int, bool], tuple[Sample, ...]]
    rounds: dict[str, list[tuple[Sample, ...]]] = field(default_factory=dict)
    failures: dict[str, TwincarError] = field(default_factory=dict)

    def take(self, names: Iterable[str], schedule: Schedule, progress: Progress | None = None) -> None:
        """Warm every subject up, then measure them all in rounds; `progress` gets (rounds done, rounds in all)."""
        self.rounds.update((name, []) for name in names)
        for name in self.rounds:
            self._try(name, schedule.warmup, 0)
        for number in range(schedule.rounds):
            for name in self.rounds:
                self._try(name, 1, schedule.per_round)
            if progress is not None:
                progress(number + 1, schedule.rounds)

    def _try(self, name: str, uncounted: int, counted: int) -> None:
        if name in self.failures:
            return
        try:
            self.turn(name, uncounted, False)
            if counted:
                self.rounds[name].append(self.turn(name, counted, True))
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
        schedule: how often.
        clock: gives the time in seconds.
        progress: called with (rounds done, rounds in all).

    Returns:
        For each subject its samples, or the error with which it failed; the others go on.
    """
    watches = {name: Stopwatch(subject, clock) for name, subject in subjects.items()}
    turns = Turns(lambda name, runs, keep: watches[name].turn(runs, keep))
    turns.take(subjects, schedule, progress)
    return {
        name: turns.failures.get(name) or tuple(sample for samples in turns.rounds[name] for sample in samples)
        for name in subjects
    }
