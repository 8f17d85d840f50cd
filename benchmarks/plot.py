"""Plots latency against accuracy, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twincar_edge.benchmarks.report import BenchmarkReport, Row
from twincar_edge.errors import InputError, require
from twincar_edge.files import replacing

BLUE, GRAY, ORANGE = "#1f5fa8", "#8a8a8a", "#d9730d"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points on the Pareto front, the fastest first.

    Args:
        points: (latency in ms, accuracy). A point is not on the front if another is at least as good in both values and
            better in one.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def plot_front(report: BenchmarkReport, path: Path) -> None:
    """Plot each row by its time per image and top-5, with lines from p50 to p95 and the Pareto front.

    Rows are numbered, with a legend next to the plot. Rows without accuracy are below the others.

    Args:
        report: a report with at least one measured row.
        path: the PNG, written atomically.

    Raises:
        InputError: no row was measured, or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "bench")
    from matplotlib.figure import Figure

    rows = sorted((row for row in report.rows if row.latency is not None), key=_p50)
    if not rows:
        raise InputError(f"cannot plot {path.name}: no row was measured")
    figure = Figure(figsize=(13, max(4.5, 1.5 + 0.3 * len(rows))), layout="constrained")
    axes, names = figure.subplots(1, 2, width_ratios=(1.5, 1))
    names.axis("off")
    rated = [(_p50(row), 100 * row.top5) for row in rows if row.top5 is not None]
    front = {rated[index] for index in pareto_front(rated)}
    floor, ceiling = min((top5 for _, top5 in rated), default=0.0), max((top5 for _, top5 in rated), default=0.0)
    span = max(ceiling - floor, 0.5)
    below = floor - 0.4 * span
    axes.plot(*zip(*sorted(front), strict=True), color=BLUE, linewidth=1.5, zorder=1) if front else None
    for number, row in enumerate(rows, 1):
        height = below if row.top5 is None else 100 * row.top5
        color = ORANGE if row.top5 is None else BLUE if (_p50(row), height) in front else GRAY
        axes.plot([_p50(row), _p95(row)], [height, height], color=color, linewidth=1, alpha=0.6, zorder=1)
        axes.scatter([_p50(row)], [height], s=190, color=color, zorder=2)
        axes.annotate(str(number), (_p50(row), height), ha="center", va="center", color="white", fontsize=8, zorder=3)
        names.text(
            0, 1 - number / (len(rows) + 1), f"{number}   {_p50(row):.2f} ms   {row.label()}", color=color,
            fontsize=8.5, va="center", parse_math=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(_p50(rows[0]) / 1.4, 1.3 * max(_p95(row) for row in rows))
    axes.set_ylim(below - 0.25 * span, ceiling + 0.3 * span)
    axes.set_xlabel("time per image in ms, from pixels to answer: p50, with a line to p95")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.set_ylabel("top-5, %" if rated else "accuracy not measured")
    axes.set_yticks([tick for tick in axes.get_yticks() if rated and tick > floor - 0.2 * span])
    if len(rated) < len(rows):  # the height of points in this area has no meaning
        axes.axhspan(below - span, floor - 0.2 * span, color=ORANGE, alpha=0.08, linewidth=0)
    axes.grid(True, which="major", alpha=0.3)
    orange = "; orange: accuracy not measured" if rated and len(rated) < len(rows) else ""
    axes.set_title(
        f"{report.machine.cpu}, {report.machine.usable_cores} cores{orange}", loc="left", fontsize=11, parse_math=False
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _p50(row: Row) -> float:
    """Return the median time per image, in ms."""
    assert row.latency is not None
    return row.latency.p50_ms / row.batch


def _p95(row: Row) -> float:
    """Return the 95th percentile of the time per image, in ms."""
    assert row.latency is not None
    return row.latency.p95_ms / row.batch
