"""Latency against accuracy, and the front of those that nothing beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twincar_edge.benchmarks.report import BenchmarkReport, Row
from twincar_edge.errors import InputError, require
from twincar_edge.files import replacing

BLUE, GREY, ORANGE = "#1f5fa8", "#8a8a8a", "#d9730d"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which points no other beats, by index, the fastest first.

    Args:
        points: (latency in ms, accuracy); a point is beaten by one that is no slower and no worse, and better in one.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def plot_front(report: BenchmarkReport, path: Path) -> None:
    """Draw each row by its time for an image and its top-5, with lines from p50 to p95; the front joins the best.

    Rows are numbered, and named beside the picture. Those without an accuracy stand below the others, for their times
    alone.

    Args:
        report: with one measured row or more.
        path: the PNG to write, whole or not at all.

    Raises:
        InputError: no row was measured, or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "bench")
    from matplotlib.figure import Figure

    rows = sorted((row for row in report.rows if row.latency is not None), key=_p50)
    if not rows:
        raise InputError(f"cannot draw {path.name}: no row was measured")
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
        colour = ORANGE if row.top5 is None else BLUE if (_p50(row), height) in front else GREY
        axes.plot([_p50(row), _p95(row)], [height, height], color=colour, linewidth=1, alpha=0.6, zorder=1)
        axes.scatter([_p50(row)], [height], s=190, color=colour, zorder=2)
        axes.annotate(str(number), (_p50(row), height), ha="center", va="center", color="white", fontsize=8, zorder=3)
        names.text(
            0, 1 - number / (len(rows) + 1), f"{number}   {_p50(row):.2f} ms   {row.label()}", color=colour,
            fontsize=8.5, va="center", parse_math=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(_p50(rows[0]) / 1.4, 1.3 * max(_p95(row) for row in rows))
    axes.set_ylim(below - 0.25 * span, ceiling + 0.3 * span)
    axes.set_xlabel("ms for an image, from pixels to answer: p50, and the line to p95")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.set_ylabel("top-5, %" if rated else "accuracy not measured")
    axes.set_yticks([tick for tick in axes.get_yticks() if rated and tick > floor - 0.2 * span])
    if len(rated) < len(rows):  # what lies here has no height that means something
        axes.axhspan(below - span, floor - 0.2 * span, color=ORANGE, alpha=0.08, linewidth=0)
    axes.grid(True, which="major", alpha=0.3)
    orange = "; orange: accuracy not measured" if rated and len(rated) < len(rows) else ""
    axes.set_title(
        f"{report.machine.cpu}, {report.machine.usable_cores} cores{orange}", loc="left", fontsize=11, parse_math=False
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _p50(row: Row) -> float:
    """Return the median time for an image, in ms."""
    assert row.latency is not None
    return row.latency.p50_ms / row.batch


def _p95(row: Row) -> float:
    """Return the 95th percentile of the time for an image, in ms."""
    assert row.latency is not None
    return row.latency.p95_ms / row.batch
