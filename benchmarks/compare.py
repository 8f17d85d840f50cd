"""Two reports side by side: what became faster or slower, on the rows that both have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from twincar_edge.benchmarks.report import BenchmarkReport, Row

COLUMNS = ("Row", "p50 before", "p50 after", "× as fast", "p95 before", "p95 after", "× as fast", "Top-5 change")


@dataclass(frozen=True)
class Change:
    """One row of both reports. Times in ms; `times_p50` and `times_p95` are how many times as fast the second is."""

    label: str
    p50_before_ms: float
    p50_after_ms: float
    p95_before_ms: float
    p95_after_ms: float
    top5_change: float | None

    @property
    def times_p50(self) -> float:
        """Return how many times as fast the second is, by the median."""
        return self.p50_before_ms / self.p50_after_ms

    @property
    def times_p95(self) -> float:
        """Return how many times as fast the second is, by the 95th percentile."""
        return self.p95_before_ms / self.p95_after_ms

    def cells(self) -> tuple[str, ...]:
        """Return the table's text, `COLUMNS`."""
        times = [
            (f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}")
            for before, after in (
                (self.p50_before_ms, self.p50_after_ms), (self.p95_before_ms, self.p95_after_ms),
            )
        ]  # fmt: skip
        change = "–" if self.top5_change is None else f"{100 * self.top5_change:+.2f}"
        return (self.label, *times[0], *times[1], change)


@dataclass(frozen=True)
class Comparison:
    """What two reports have in common, what only one has, and what makes their times hard to compare."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    cautions: tuple[str, ...]


def compare(before: BenchmarkReport, after: BenchmarkReport) -> Comparison:
    """Match the rows of two reports by model, precision, provider, batch, threads and how idle threads wait.

    A model is matched by name, not by digest, since a new export is what one wants to compare; another digest is one of
    the cautions, and so are another machine, other versions and other images.
    """
    ours, theirs = dict(_measured(before)), dict(_measured(after))
    changes = []
    for key in ours.keys() & theirs.keys():
        first, second = ours[key], theirs[key]
        one, other = first.latency, second.latency
        assert one is not None and other is not None
        changed = None if first.top5 is None or second.top5 is None else second.top5 - first.top5
        label = second.label()
        changes.append((list(theirs).index(key), Change(
            label, one.p50_ms, other.p50_ms, one.p95_ms, other.p95_ms, changed
        )))  # fmt: skip
    return Comparison(
        changes=tuple(change for _, change in sorted(changes, key=lambda entry: entry[0])),
        only_before=tuple(row.label() for key, row in ours.items() if key not in theirs),
        only_after=tuple(row.label() for key, row in theirs.items() if key not in ours),
        cautions=tuple(_cautions(before, after)),
    )


def _measured(report: BenchmarkReport) -> Iterator[tuple[tuple[object, ...], Row]]:
    for row in report.rows:
        if row.latency is not None:
            paced = row.paced and row.paced.fps
            yield (row.model, row.precision, row.ep, row.peer, row.batch, row.threads, row.spinning, paced), row


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
    digests = [{row.model: row.sha256 for row in report.rows if row.sha256} for report in (before, after)]
    for model in sorted(digests[0].keys() & digests[1].keys()):
        if digests[0][model] != digests[1][model]:
            yield f"{model} is another file"
    if before.interrupted or after.interrupted:
        yield "not all rounds were measured"
