"""The picture beside an open-set report: what known cars keep, and what others wrongly get, over the pictures' size."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from twincar_edge.export.open_set.report import OpenSetReport
from twincar_edge.runtime.inference.answers import Level
from twincar_edge.training.plots import BLUE, GREEN, GREY, ORANGE, new_figure, plain, save

_COLOURS = (ORANGE, GREEN, GREY, "#CC79A7", "#56B4E9", "#E69F00", "#F0E442", "#000000")

_LEVELS: tuple[tuple[Level, str, str], ...] = (
    ("year", BLUE, "in full"),
    ("model", GREEN, "model or more"),
    ("make", ORANGE, "make or more"),
)


def plot_open_set(report: OpenSetReport, path: Path) -> None:
    """Draw two panels over the size of the pictures: known cars on the left, all others on the right.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = new_figure((12.5, 5.4), f"Open set: {report.name}")
    left, right = figure.subplots(1, 2)
    _draw_known(left, report)
    _draw_others(right, report)
    save(figure, path)


def _draw_known(axes: Axes, report: OpenSetReport) -> None:
    known = [(size.size_px, size.known) for size in report.sizes if size.known is not None]
    across = [px for px, _ in known]
    for level, colour, title in _LEVELS:
        axes.plot(
            across, [figures.levels[level].coverage for _, figures in known], color=colour, marker="o", label=title
        )
        right = [figures.levels[level].right for _, figures in known]
        shown = [(px, share) for px, share in zip(across, right, strict=True) if share is not None]
        axes.plot(
            [px for px, _ in shown], [share for _, share in shown],
            color=colour, marker="o", linestyle=(0, (1, 1)), label=f"{title}: right",
        )  # fmt: skip
    axes.set_title("Cars of the model's classes", fontsize=11)
    _finish(axes, report)
    axes.set_ylim(min(axes.get_ylim()[0], 0.5), 1.01)


def _draw_others(axes: Axes, report: OpenSetReport) -> None:
    names = list(dict.fromkeys((group.of, group.name) for size in report.sizes for group in size.groups))
    for (of, name), colour in zip(names, _COLOURS * len(names), strict=False):
        found = [
            (size.size_px, group)
            for size in report.sizes
            for group in size.groups
            if (group.of, group.name) == (of, name)
        ]
        across = [px for px, _ in found]
        label = f"{'cars: ' if of != 'no car' else ''}{name} ({found[0][1].images})"
        axes.plot(across, [group.wrong for _, group in found], color=colour, marker="o", label=label)
        axes.plot(
            across, [group.wrong_full_name for _, group in found], color=colour, marker="o", linestyle=(0, (1, 1))
        )
    axes.set_title("Others: any wrong claim (lines) and full names (dotted)", fontsize=11)
    _finish(axes, report)
    axes.set_ylim(bottom=0)


def _finish(axes: Axes, report: OpenSetReport) -> None:
    sizes = [size.size_px for size in report.sizes]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.set_xlabel("shorter side of the picture, pixels")
    axes.set_ylabel("share of pictures")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    plain(axes)
    if axes.get_legend_handles_labels()[0]:
        # Below the axes: inside, it would hide a line of one report or another.
        axes.legend(fontsize=9, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
