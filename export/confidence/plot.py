"""The picture beside a confidence report: reliability, coverage against accuracy, and how sure of what is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from twincar_edge.export.confidence.report import (
    GIVEN,
    LEVEL_TITLES,
    MASKED,
    NOISE,
    TWIN_CARS,
    ConfidenceReport,
    OperatingPoint,
    ReliabilityBin,
)
from twincar_edge.runtime.inference.answers import Level
from twincar_edge.training.plots import BLUE, GREEN, GREY, ORANGE, new_figure, plain, save

_PURPLE, _SKY = "#CC79A7", "#56B4E9"  # the rest of Okabe and Ito's colours that show on white
_STYLES: dict[str, tuple[str, tuple[int, tuple[int, ...]]]] = {
    TWIN_CARS: (ORANGE, (0, ())),
    NOISE: (GREY, (0, (1, 1))),
    GIVEN: (_PURPLE, (0, (6, 2))),
    MASKED: (GREEN, (0, (4, 1, 1, 1))),
}
_Corner = Literal["lower right", "lower left", "upper center"]
_BIN = 5  # hundredths of probability in a bar
_LEVEL_COLOURS: dict[Level, str] = {"year": BLUE, "model": GREEN, "make": ORANGE}
_LABELLED = (0.0, 0.3, 0.5, 0.7, 0.9)  # thresholds whose place on the curve is worth a word


def plot_confidence(report: ConfidenceReport, path: Path) -> None:
    """Draw four panels: reliability before and after, coverage against accuracy, and twice how sure the model is.

    The lower panels show known and unknown pictures: left, how the probabilities that a threshold is compared with are
    spread; right, the share that it lets through. A dashed line marks the chosen threshold.

    Args:
        report: of at least one precision; the first is drawn.
        path: the PNG to write, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    figure = new_figure((12.5, 9.6), f"Confidence of {report.name}")
    (upper_left, upper_right), (lower_left, lower_right) = figure.subplots(2, 2)
    _draw_reliability(upper_left, report)
    _draw_coverage(upper_right, report)
    _draw_spread(lower_left, report)
    _draw_named(lower_right, report)
    save(figure, path)


def _draw_reliability(axes: Axes, report: ConfidenceReport) -> None:
    """Draw how often answers are right over how sure they are; a point's area grows with its number of images."""
    figures = next(iter(report.precisions.values()))
    axes.plot((0, 1), (0, 1), color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label="as sure as right")
    _draw_bins(axes, report.reliability_before, ORANGE, "s", f"before: ECE {figures.ece_before:.1%}")
    after = f"at temperature {report.temperature:g}: ECE {figures.ece_after:.1%}"
    _draw_bins(axes, report.reliability_after, BLUE, "o", after)
    axes.set_title(f"Reliability on {report.data.images} held-out images", fontsize=11)
    axes.set_xlabel("probability of the first answer")
    axes.set_ylabel("share of right answers")
    _shares(axes, "lower right")
    axes.set_xlim(0, 1.05)  # the point of the surest answers is the largest
    axes.set_ylim(0, 1.05)


def _draw_bins(axes: Axes, bins: tuple[ReliabilityBin, ...], colour: str, marker: str, label: str) -> None:
    total = sum(part.images for part in bins)
    across, up = [part.probability for part in bins], [part.right for part in bins]
    axes.plot(across, up, color=colour, linewidth=1.4, marker=marker, markersize=4, label=label)
    axes.scatter(across, up, s=[900 * part.images / total for part in bins], color=colour, alpha=0.3, linewidths=0)


def _draw_coverage(axes: Axes, report: ConfidenceReport) -> None:
    """Draw how many of the named images are right over how many are named: for each level of a name."""
    across: list[float] = []
    up: list[float] = []
    for level, colour in _LEVEL_COLOURS.items():
        points = [(p.threshold, p.levels[level].coverage, p.levels[level].right) for p in report.points]
        curve = [(threshold, coverage, right) for threshold, coverage, right in points if right is not None]
        across += [coverage for _, coverage, _ in curve]
        up += [right for _, _, right in curve]
        chosen = next((point for point in curve if point[0] == report.threshold), None)
        label = LEVEL_TITLES[level]
        if chosen is not None:
            label += f": {chosen[1]:.1%} named, {chosen[2]:.1%} right"
            axes.plot(chosen[1], chosen[2], marker="o", markersize=8, color=colour)
        axes.plot([p[1] for p in curve], [p[2] for p in curve], color=colour, linewidth=1.8, label=label)
        for threshold, coverage, right in curve:
            if threshold in _LABELLED:
                axes.plot(coverage, right, marker="o", markersize=4, color=colour)
                if level == "year":
                    place = (coverage, right)
                    axes.annotate(
                        f"{threshold:g}", place, (-8, -12), textcoords="offset points", ha="right", fontsize=9
                    )
    lowest = min(up, default=0.0)
    axes.set_ylim(max(0.0, lowest - 0.25 * (1 - lowest) - 0.01), 1.005)
    axes.set_xlim(max(0.0, min(across, default=0.0) - 0.05), 1.01)
    axes.set_title(f"Coverage against accuracy by level; large points at {report.threshold:g}", fontsize=11)
    axes.set_xlabel("share of known images whose name goes so far or farther")
    axes.set_ylabel("share of these names that are right")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    _finish(axes, "lower left")


def _draw_spread(axes: Axes, report: ConfidenceReport) -> None:
    """Draw how the best probabilities are spread: steps of the width of a bin for each set."""
    at = {round(100 * point.threshold): point for point in report.points if _is_whole(point)}
    edges = list(range(0, 101, _BIN))
    for name, colour, style, count in _sets(report):
        # What is named at one edge and no longer at the next lies between them; probability 1 is in the last bin.
        reached = [_share(at[edge], name) for edge in edges[:-1]] + [0.0]
        shares = [reached[i] - reached[i + 1] for i in range(len(edges) - 1)]
        label = f"{name or 'known'} ({count})"
        if name is None:
            axes.stairs(shares, [edge / 100 for edge in edges], color=colour, fill=True, alpha=0.25, label=label)
        else:
            axes.stairs(
                shares, [edge / 100 for edge in edges], color=colour, linestyle=style, linewidth=1.8, label=label
            )
    _mark_threshold(axes, report)
    axes.set_title(f"How sure the model is; each step {_BIN / 100:g} wide", fontsize=11)
    axes.set_xlabel("probability of the make; of unknown pictures, of their surest wrong name")
    axes.set_ylabel("share of images")
    axes.set_xlim(0, 1)
    _finish(axes, "upper center")


def _draw_named(axes: Axes, report: ConfidenceReport) -> None:
    """Draw the share of each set that gets a name, over the threshold."""
    across = [point.threshold for point in report.points]
    for name, colour, style, _ in _sets(report):
        up = [_share(point, name) for point in report.points]
        chosen = _share(next(point for point in report.points if point.threshold == report.threshold), name)
        label = f"{name or 'known'}: {chosen:.1%}"
        axes.plot(across, up, color=colour, linestyle=style, linewidth=1.8, label=label)
    _mark_threshold(axes, report)
    if report.false_accept is not None:
        label = f"allowed: {report.false_accept:.1%}"
        axes.axhline(report.false_accept, color=GREY, linewidth=0.8, label=label)
    axes.set_title(f"What a threshold lets through; in the legend, what {report.threshold:g} does", fontsize=11)
    axes.set_xlabel("threshold")
    axes.set_ylabel("share that gets a name; of unknown ones, a wrong one")
    _shares(axes, "lower left")


def _sets(report: ConfidenceReport) -> list[tuple[str | None, str, tuple[int, tuple[int, ...]], int]]:
    """Return name (None for the known images), colour, line and number of pictures of each set."""
    unknown = [(name, *_STYLES[name], count) for name, count in report.unknown.items()]
    return [(None, BLUE, (0, ()), report.data.images), *unknown]


def _share(point: OperatingPoint, name: str | None) -> float:
    return point.levels["make"].coverage if name is None else point.unknown_named[name]


def _is_whole(point: OperatingPoint) -> bool:
    """Say whether the threshold is a whole hundredth, and not one that somebody gave in between."""
    return point.threshold == round(100 * point.threshold) / 100


def _mark_threshold(axes: Axes, report: ConfidenceReport) -> None:
    axes.axvline(
        report.threshold, color="black", linestyle=(0, (4, 3)), linewidth=1.2, label=f"threshold {report.threshold:g}"
    )


def _shares(axes: Axes, legend: _Corner) -> None:
    """Let both axes run from 0 to 1."""
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.01)
    _finish(axes, legend)


def _finish(axes: Axes, legend: _Corner) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    plain(axes)
    axes.legend(loc=legend, fontsize=9, framealpha=0.9, edgecolor="#dddddd")
