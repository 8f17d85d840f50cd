"""Compares two reports: which of their common rows are faster or slower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.formats import NONE
from twincar_edge.benchmarks.report import RESAMPLES, BenchmarkReport, Row

COLUMNS = (
    "Row", "p50 before", "p50 after", "× as fast", "Verdict", "p95 before", "p95 after", "p95 × as fast",
    "Top-5 change",
)  # fmt: skip
PRIORITY = (
    "Row", "× as fast", "Verdict", "Top-5 change", "p50 after", "p50 before", "p95 × as fast", "p95 after",
    "p95 before",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A row that both reports have. Times are in ms; `times_p50` and `times_p95` are the speedups of the second report.

    `interval` is the 95% confidence interval of `times_p50`, or None if a report has fewer than two rounds.
    """

    label: str
    p50_before_ms: float
    p50_after_ms: float
    p95_before_ms: float
    p95_after_ms: float
    top5_change: float | None
    interval: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """Return "faster", "slower", or "within noise" if the interval contains 1."""
        if self.interval is None:
            return NONE
        low, high = self.interval
        return "faster" if low > 1 else "slower" if high < 1 else "within noise"

    @property
    def times_p50(self) -> float:
        """Return the speedup of the second report by the median."""
        return self.p50_before_ms / self.p50_after_ms

    @property
    def times_p95(self) -> float:
        """Return the speedup of the second report by the 95th percentile."""
        return self.p95_before_ms / self.p95_after_ms

    def cells(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        change = NONE if self.top5_change is None else f"{100 * self.top5_change:+.2f}"
        ratio = f"{self.times_p50:.2f}"
        if self.interval is not None:
            ratio += f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return (
            self.label, f"{self.p50_before_ms:.2f}", f"{self.p50_after_ms:.2f}", ratio, self.verdict,
            f"{self.p95_before_ms:.2f}", f"{self.p95_after_ms:.2f}", f"{self.times_p95:.2f}", change,
        )  # fmt: skip


class _Key(NamedTuple):
    """What matches rows of two reports; `file` and `number` are only set where several rows have the same settings."""

    settings: tuple[object, ...]
    file: str
    number: int = 1


@dataclass(frozen=True)
class Comparison:
    """The common rows of two reports, the rows that only one has, and reasons for caution."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    cautions: tuple[str, ...]


def compare(before: BenchmarkReport, after: BenchmarkReport) -> Comparison:
    """Match the rows of two reports by model, precision, provider, peer, batch, threads, spinning and pace.

    Models are matched by name, not by digest, because a new export is a typical comparison. A different digest is one
    of the cautions, as are a different machine, different versions and different images. Rows that agree in all of
    those settings within a report, such as two INT8 files of one model, are also matched by the file's name.
    """
    ours, theirs = _measured(before, after)
    pairs = [(ours[key], row, key) for key, row in theirs.items() if key in ours]
    return Comparison(
        changes=tuple(
            _change(
                _label(key, second),
                (first, second),
                _interval(_rounds(first, before.per_round), _rounds(second, after.per_round)),
            )
            for first, second, key in pairs
        ),
        only_before=tuple(_label(key, row) for key, row in ours.items() if key not in theirs),
        only_after=tuple(_label(key, row) for key, row in theirs.items() if key not in ours),
        cautions=(
            *_cautions(before, after),
            *(
                f"the files of {model} differ"
                for model in sorted({second.model for first, second, _ in pairs if first.sha256 != second.sha256})
            ),
        ),
    )


def _change(label: str, rows: tuple[Row, Row], interval: tuple[float, float] | None) -> Change:
    one, other = (row.latency for row in rows)
    assert one is not None and other is not None
    top5 = [row.top5 for row in rows if row.top5 is not None]
    changed = top5[1] - top5[0] if len(top5) == 2 else None
    return Change(label, one.p50_ms, other.p50_ms, one.p95_ms, other.p95_ms, changed, interval)


def _rounds(row: Row, per_round: int) -> NDArray[np.float64] | None:
    """Return a row's total times in ms, [rounds, per_round], or None if there are fewer than two rounds."""
    if row.timing is None:  # at a camera's pace, there are no rounds
        return None
    steps = (row.timing.pre_samples_ms, row.timing.infer_samples_ms, row.timing.post_samples_ms)
    total_ms = np.array([sum(sample) for sample in zip(*steps, strict=False)])
    rounds = len(total_ms) // per_round if per_round > 0 else 0
    return total_ms[: rounds * per_round].reshape(rounds, per_round) if rounds > 1 and total_ms.min() > 0 else None


def _interval(before: NDArray[np.float64] | None, after: NDArray[np.float64] | None) -> tuple[float, float] | None:
    """Return the 95% bootstrap interval of the speedup of `after`, by medians.

    Runs of one round are correlated, so rounds are resampled, not runs. Rounds of two reports are not paired, so each
    report is resampled independently. Source: Efron, "Bootstrap methods", 1979.
    """
    if before is None or after is None:
        return None
    rng = np.random.default_rng(0)

    def medians(rounds: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = rounds[rng.integers(0, len(rounds), (RESAMPLES, len(rounds)))]
        return np.asarray(np.median(drawn.reshape(RESAMPLES, -1), axis=1))

    low, high = np.percentile(medians(before) / medians(after), (2.5, 97.5))
    return float(low), float(high)


def _measured(*reports: BenchmarkReport) -> list[dict[_Key, Row]]:
    """Return the measured rows of each report by their key."""
    keyed = [[(_settings(row), row) for row in report.rows if row.latency is not None] for report in reports]
    repeated = {key for rows in keyed for key, count in Counter(key for key, _ in rows).items() if count > 1}
    found: list[dict[_Key, Row]] = [{} for _ in reports]
    for rows, by_key in zip(keyed, found, strict=True):
        for settings, row in rows:
            key = _Key(settings, row.file if settings in repeated else "")
            while key in by_key:  # files with one name, in different folders
                key = key._replace(number=key.number + 1)
            by_key[key] = row
    return found


def _settings(row: Row) -> tuple[object, ...]:
    paced = row.paced and row.paced.fps
    return (row.model, row.precision, row.ep, row.peer, row.batch, row.threads, row.spinning, paced)


def _label(key: _Key, row: Row) -> str:
    return row.label() + (f", {key.file}" if key.file else "")


def _cautions(before: BenchmarkReport, after: BenchmarkReport) -> Iterator[str]:
    if before.machine != after.machine or before.gpus != after.gpus:
        yield f"the machines differ: {before.machine.cpu} and {after.machine.cpu}"
    names = sorted(before.versions.keys() | after.versions.keys())
    for name in names:
        old, new = before.versions.get(name, "none"), after.versions.get(name, "none")
        if old != new:
            yield f"{name} {old} and {new}"
    if before.images != after.images:
        yield f"the images differ: {before.images}, and {after.images}"
    if before.interrupted or after.interrupted:
        yield "a report was interrupted: not all rounds were measured"
