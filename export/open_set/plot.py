"""The plot of an open-set report: names of known cars, and wrong names of others, by image size."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from twincar_edge.export.open_set.report import OpenSetReport
from twincar_edge.runtime.inference.answers import Level
from twincar_edge.training.plots import BLUE, GRAY, GREEN, ORANGE, new_figure, save, style_axes

_COLORS = (ORANGE, GREEN, GRAY, "#CC79A7", "#56B4E9", "#E69F00", "#F0E442", "#000000")
_WHOLE = 1.03  # the limit of an axis on which the markers at 100% are whole

_LEVELS: tuple[tuple[Level, str, str], ...] = (
    ("year", BLUE, "in full"),
    ("model", GREEN, "model or more"),
    ("make", ORANGE, "make or more"),
)


def plot_open_set(report: OpenSetReport, path: Path) -> None:
    """Plot two panels by image size: known cars on the left, all others on the right.

    Raises:
        InputError: the file cannot be written.
    """
    figure = new_figure((12.5, 5.4), f"Open set: {report.name}")
    left, right = figure.subplots(1, 2)
    _draw_known(left, report)
    _draw_others(right, report)
    save(figure, path)


def _draw_known(axes: Axes, report: OpenSetReport) -> None:
    known = [(size.size_px, size.known) for size in report.sizes if size.known is not None]
    sizes = [px for px, _ in known]
    for level, color, title in _LEVELS:
        axes.plot(sizes, [figures.levels[level].coverage for _, figures in known], color=color, marker="o", label=title)
        right = [figures.levels[level].right for _, figures in known]
        shown = [(px, share) for px, share in zip(sizes, right, strict=True) if share is not None]
        axes.plot(
            [px for px, _ in shown], [share for _, share in shown],
            color=color, marker="o", linestyle=(0, (1, 1)), label=f"{title}: right",
        )  # fmt: skip
    axes.set_title("Cars of the model's classes", fontsize=11)
    _finish(axes, report)
    axes.set_ylim(min(axes.get_ylim()[0], 0.5), _WHOLE)


def _draw_others(axes: Axes, report: OpenSetReport) -> None:
    names = list(dict.fromkeys((group.of, group.name) for size in report.sizes for group in size.groups))
    for (of, name), color in zip(names, _COLORS * len(names), strict=False):
        found = [
            (size.size_px, group)
            for size in report.sizes
            for group in size.groups
            if (group.of, group.name) == (of, name)
        ]
        sizes = [px for px, _ in found]
        label = f"{'cars: ' if of != 'no car' else ''}{name} ({found[0][1].images})"
        axes.plot(sizes, [group.wrong for _, group in found], color=color, marker="o", label=label)
        axes.plot(sizes, [group.wrong_full_name for _, group in found], color=color, marker="o", linestyle=(0, (1, 1)))
    axes.set_title("Others: any wrong name (lines) and full names (dotted)", fontsize=11)
    _finish(axes, report)
    top = min(axes.get_ylim()[1], _WHOLE)
    axes.set_ylim(-0.03 * top, top)


def _finish(axes: Axes, report: OpenSetReport) -> None:
    sizes = [size.size_px for size in report.sizes]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.set_xlabel("shorter side of the image, pixels")
    axes.set_ylabel("share of images")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    style_axes(axes)
    if axes.get_legend_handles_labels()[0]:
        # Below the axes, because inside it could hide a line.
        axes.legend(fontsize=9, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
