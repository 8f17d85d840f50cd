"""The plot of a parity report, with a row of two panels for each comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from twincar_edge.export.parity.compare import allowed_logit_difference
from twincar_edge.export.parity.comparison import SURE_MARGIN, Comparison
from twincar_edge.export.parity.markdown import points
from twincar_edge.export.parity.names import title
from twincar_edge.export.parity.report import ParityReport
from twincar_edge.training.plots import BLUE, GRAY, ORANGE, new_figure, save, style_axes
from twincar_edge.wording import counted

_ROW_INCHES = 3.5
_FEW_FLIPS = 30  # with more, markers are smaller so that they do not overlap
_SMALLEST_SPAN = 1.0  # points in each direction, so that tiny changes look tiny


def plot_parity(report: ParityReport, path: Path) -> None:
    """Plot two panels for each comparison.

    Left: each image by the reference's margin and its largest difference of a logit; left of the line, the reference is
    not confident, and answers may change. Right: the changes of top-1 and top-5, with the 95% confidence interval of
    the paired difference, and the limit.

    Args:
        report: a report with at least one comparison.
        path: the PNG, written atomically.

    Raises:
        InputError: it cannot be written.
    """
    rows = len(report.comparisons)
    verdict = "all limits met" if report.passed else f"{counted(len(report.breaches), 'limit')} not met"
    heading = f"Parity of {report.name} on {report.data.images} images of {report.data.name}: {verdict}"
    figure = new_figure((12, 0.6 + _ROW_INCHES * rows), heading)
    grid = figure.subplots(rows, 2, squeeze=False, width_ratios=(1.45, 1))
    span = max(_SMALLEST_SPAN, *(1.12 * _reach(side) for side in report.comparisons))
    for (left, right), side in zip(grid, report.comparisons, strict=True):
        _draw_images(left, side)
        left.set_title(_row_title(side, report), fontsize=11, loc="left", parse_math=False)
        _draw_accuracies(right, side, report, span)
    grid[-1, 0].set_xlabel("margin of the reference: difference between its two best probabilities")
    grid[-1, 1].set_xlabel("change in points; bars: 95% confidence interval of the paired difference")
    save(figure, path)


def _row_title(side: Comparison, report: ParityReport) -> str:
    allowed = allowed_logit_difference(side, report.limits)
    missed = any(breach.subject == side.subject for breach in report.breaches)
    return (
        f"{title(side.subject)} against {title(side.against)}: {side.agreement:.2%} of {report.data.images} agree"
        + ("" if allowed is None else f", logits may differ by {allowed:.2g}")
        + (", limits not met" if missed else "")
    )


def _draw_images(axes: Axes, side: Comparison) -> None:
    margins, differences = np.array(side.reference_margins), np.array(side.max_logit_differences)
    style_axes(axes)
    axes.scatter(margins, differences, s=14, color=BLUE, alpha=0.35, linewidths=0, label="same answer")
    axes.axvline(SURE_MARGIN, color=GRAY, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    if side.flips:
        axes.scatter(
            [flip.reference_margin for flip in side.flips],
            [flip.max_logit_difference for flip in side.flips],
            s=44 if len(side.flips) <= _FEW_FLIPS else 16,
            marker="s",
            facecolor=ORANGE,
            edgecolor="white",
            linewidths=0.8,
            zorder=3,
            label=f"answer changed ({len(side.flips)})",
        )
    top = 1.35 * float(differences.max())  # leaves room for the legend
    axes.set_ylim(0, top or 1.0)
    axes.set_xlim(-0.015, 1.015)
    axes.annotate(
        "reference is confident →", (SURE_MARGIN, 1), (5, -3), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="top", fontsize=9, color=GRAY,
    )  # fmt: skip
    axes.set_ylabel("largest difference of a logit")
    axes.legend(loc="upper left", fontsize=9, framealpha=0.9, edgecolor="#dddddd")


def _draw_accuracies(axes: Axes, side: Comparison, report: ParityReport, span: float) -> None:
    """Plot both changes on a scale that all rows share, so that rows can be compared."""
    rows = (
        ("top-1", side.top1_reference, side.top1, side.top1_difference_interval, report.limits.top1_drop),
        ("top-5", side.top5_reference, side.top5, side.top5_difference_interval, report.limits.top5_drop),
    )
    judged = allowed_logit_difference(side, report.limits) is None
    style_axes(axes, "x")
    axes.axvline(0, color=GRAY, linewidth=1)
    for place, (name, before, now, (low, high), limit) in enumerate(rows):
        change = now - before
        axes.plot([100 * low, 100 * high], [place, place], color=BLUE, linewidth=2.2, solid_capstyle="butt")
        axes.plot([100 * change], [place], "o", color=BLUE, markersize=8, markeredgecolor="white")
        axes.text(
            -span, place - 0.22, f"{name}: {before:.2%} → {now:.2%} ({points(change)})", fontsize=9.5, va="bottom",
            parse_math=False, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
        if judged:
            mark = [-100 * limit] * 2, [place - 0.16, place + 0.16]
            axes.plot(*mark, color=ORANGE, linewidth=2.2, label="largest drop allowed" if place == 0 else None)
    axes.set_xlim(-1.02 * span, 1.02 * span)
    axes.set_ylim(1.6, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if judged:
        axes.legend(loc="lower right", fontsize=9, framealpha=0.9, edgecolor="#dddddd")


def _reach(side: Comparison) -> float:
    """Return the largest absolute value of a comparison's changes and intervals, in points."""
    ends = (*side.top1_difference_interval, *side.top5_difference_interval)
    changes = (side.top1 - side.top1_reference, side.top5 - side.top5_reference)
    return 100 * max(abs(value) for value in (*ends, *changes))
