"""Timing in turns: every subject meets the same drift of the machine, and every sample is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twincar_edge.errors import InputError, TwincarError

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


def measure(
    subjects: Mapping[str, Subject],
    schedule: Schedule,
    clock: Clock = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[Sample, ...] | TwincarError]:
    """Time every subject, in rounds.

    Args:
        subjects: what to time, by name.
        schedule: how often.
        clock: gives the time in seconds.
        progress: called with (rounds done, rounds in all).

    Returns:
        For each subject its samples, or the error with which it failed; the others go on.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in subjects}
    failures: dict[str, TwincarError] = {}

    def turn(name: str, runs: int, keep: bool) -> None:
        if name in failures:
            return
        try:
            for _ in range(runs):
                sample = _run_once(subjects[name], len(samples[name]), clock)
                if keep:
                    samples[name].append(sample)
        except TwincarError as error:
            failures[name] = error

    for name in subjects:
        turn(name, schedule.warmup, keep=False)
    for number in range(schedule.rounds):
        for name in subjects:
            turn(name, 1, keep=False)
            turn(name, schedule.per_round, keep=True)
        if progress is not None:
            progress(number + 1, schedule.rounds)
    return {name: failures.get(name) or tuple(samples[name]) for name in subjects}


def _run_once(subject: Subject, number: int, clock: Clock) -> Sample:
    start = clock()
    batch = subject.pre(number)
    prepared = clock()
    logits = subject.infer(batch)
    inferred = clock()
    subject.post(logits)
    done = clock()
    return Sample((prepared - start) * 1e3, (inferred - prepared) * 1e3, (done - inferred) * 1e3)
