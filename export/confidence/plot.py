"""The plot of a confidence report: reliability, coverage against accuracy, and probabilities of unknown images."""

from __future__ import annotations

from pathlib import Path

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
from twincar_edge.training.plots import BLUE, GRAY, GREEN, ORANGE, new_figure, save, style_axes

_PURPLE = "#CC79A7"  # another of Okabe and Ito's colors
_STYLES: dict[str, tuple[str, tuple[int, tuple[int, ...]]]] = {
    TWIN_CARS: (ORANGE, (0, ())),
    NOISE: (GRAY, (0, (1, 1))),
    GIVEN: (_PURPLE, (0, (6, 2))),
    MASKED: (GREEN, (0, (4, 1, 1, 1))),
}
_BIN = 5  # width of a histogram bin, in hundredths of probability
_LEVEL_COLORS: dict[Level, str] = {"year": BLUE, "model": GREEN, "make": ORANGE}
_LABELED = (0.3, 0.5, 0.7, 0.9)  # thresholds to label on the curve


def plot_confidence(report: ConfidenceReport, path: Path) -> None:
    """Plot four panels: reliability, coverage against accuracy, and two for known and unknown images.

    The lower left panel has the distribution of the probabilities that the threshold applies to, the lower right one
    the share of images that get a name by threshold. A dashed line marks the chosen threshold.

    Args:
        report: a report on at least one precision; the first is plotted.
        path: the PNG, written atomically.

    Raises:
        InputError: it cannot be written.
    """
    figure = new_figure((12.5, 11.2), f"Confidence of {report.name}")
    (upper_left, upper_right), (lower_left, lower_right) = figure.subplots(2, 2)
    _draw_reliability(upper_left, report)
    _draw_coverage(upper_right, report)
    _draw_distribution(lower_left, report)
    _draw_named(lower_right, report)
    save(figure, path)


def _draw_reliability(axes: Axes, report: ConfidenceReport) -> None:
    """Plot accuracy over probability; the area of a point is proportional to its number of images."""
    figures = next(iter(report.precisions.values()))
    axes.plot((0, 1), (0, 1), color=GRAY, linestyle=(0, (4, 3)), linewidth=1.2, label="perfectly calibrated")
    _draw_bins(axes, report.reliability_before, ORANGE, "s", f"before: ECE {figures.ece_before:.1%}")
    after = f"at temperature {report.temperature:g}: ECE {figures.ece_after:.1%}"
    _draw_bins(axes, report.reliability_after, BLUE, "o", after)
    axes.set_title(f"Reliability on {report.data.images} held-out images", fontsize=11)
    axes.set_xlabel("probability of the top answer")
    axes.set_ylabel("share of right answers")
    _shares(axes)
    axes.set_xlim(0, 1.05)  # leaves room for the largest point, usually at probability 1
    axes.set_ylim(0, 1.05)


def _draw_bins(axes: Axes, bins: tuple[ReliabilityBin, ...], color: str, marker: str, label: str) -> None:
    total = sum(part.images for part in bins)
    x, y = [part.probability for part in bins], [part.right for part in bins]
    axes.plot(x, y, color=color, linewidth=1.4, marker=marker, markersize=4, label=label)
    axes.scatter(x, y, s=[900 * part.images / total for part in bins], color=color, alpha=0.3, linewidths=0)


def _draw_coverage(axes: Axes, report: ConfidenceReport) -> None:
    """Plot the accuracy of named images over the share of named images, for each level of a name."""
    coverages: list[float] = []
    accuracies: list[float] = []
    for level, color in _LEVEL_COLORS.items():
        points = [(p.threshold, p.levels[level].coverage, p.levels[level].right) for p in report.points]
        curve = [(threshold, coverage, right) for threshold, coverage, right in points if right is not None]
        coverages += [coverage for _, coverage, _ in curve]
        accuracies += [right for _, _, right in curve]
        chosen = next((point for point in curve if point[0] == report.threshold), None)
        label = LEVEL_TITLES[level]
        if chosen is not None:
            label += f": {chosen[1]:.1%} named, {chosen[2]:.1%} right"
            axes.plot(chosen[1], chosen[2], marker="o", markersize=8, color=color)
        axes.plot([p[1] for p in curve], [p[2] for p in curve], color=color, linewidth=1.8, label=label)
        for threshold, coverage, right in curve:
            if threshold in _LABELED:
                axes.plot(coverage, right, marker="o", markersize=4, color=color)
                if level == "year":
                    place = (coverage, right)
                    axes.annotate(
                        f"{threshold:g}", place, (-8, -12), textcoords="offset points", ha="right", fontsize=9
                    )
    lowest = min(accuracies, default=0.0)
    axes.set_ylim(max(0.0, lowest - 0.25 * (1 - lowest) - 0.01), 1.005)
    axes.set_xlim(max(0.0, min(coverages, default=0.0) - 0.05), 1.01)
    axes.set_title(f"Accuracy against coverage by level; large points at {report.threshold:g}", fontsize=11)
    axes.set_xlabel("share of known images named at this level or deeper")
    axes.set_ylabel("share of these names that are right")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    _finish(axes)


def _draw_distribution(axes: Axes, report: ConfidenceReport) -> None:
    """Plot a histogram of the best probabilities for each set."""
    at = {round(100 * point.threshold): point for point in report.points if _is_whole(point)}
    edges = list(range(0, 101, _BIN))
    for name, color, style, count in _sets(report):
        # Images named at one edge but not at the next are in between; probability 1 belongs to the last bin.
        reached = [_share(at[edge], name) for edge in edges[:-1]] + [0.0]
        shares = [reached[i] - reached[i + 1] for i in range(len(edges) - 1)]
        label = f"{name or 'known'} ({count})"
        if name is None:
            axes.stairs(shares, [edge / 100 for edge in edges], color=color, fill=True, alpha=0.25, label=label)
        else:
            axes.stairs(
                shares, [edge / 100 for edge in edges], color=color, linestyle=style, linewidth=1.8, label=label
            )
    _mark_threshold(axes, report)
    axes.set_title(f"Distribution of probabilities, bin width {_BIN / 100:g}", fontsize=11)
    axes.set_xlabel("probability of the make; for unknown images, of the most probable wrong name")
    axes.set_ylabel("share of images")
    axes.set_xlim(0, 1)
    _finish(axes)


def _draw_named(axes: Axes, report: ConfidenceReport) -> None:
    """Plot the share of each set that gets a name, by threshold."""
    thresholds = [point.threshold for point in report.points]
    for name, color, style, _ in _sets(report):
        shares = [_share(point, name) for point in report.points]
        chosen = _share(next(point for point in report.points if point.threshold == report.threshold), name)
        label = f"{name or 'known'}: {chosen:.1%}"
        axes.plot(thresholds, shares, color=color, linestyle=style, linewidth=1.8, label=label)
    _mark_threshold(axes, report)
    if report.false_accept is not None:
        label = f"limit: {report.false_accept:.1%}"
        axes.axhline(report.false_accept, color=GRAY, linewidth=0.8, label=label)
    axes.set_title(f"Share of named images by threshold; the legend has it at {report.threshold:g}", fontsize=11)
    axes.set_xlabel("threshold")
    axes.set_ylabel("share that gets a name; for unknown images, a wrong one")
    _shares(axes)


def _sets(report: ConfidenceReport) -> list[tuple[str | None, str, tuple[int, tuple[int, ...]], int]]:
    """Return the name (None for the known images), color, line style and number of images of each set."""
    unknown = [(name, *_STYLES[name], count) for name, count in report.unknown.items()]
    return [(None, BLUE, (0, ()), report.data.images), *unknown]


def _share(point: OperatingPoint, name: str | None) -> float:
    return point.levels["make"].coverage if name is None else point.unknown_named[name]


def _is_whole(point: OperatingPoint) -> bool:
    """Return whether the threshold is a multiple of 0.01; a threshold that was given may not be."""
    return point.threshold == round(100 * point.threshold) / 100


def _mark_threshold(axes: Axes, report: ConfidenceReport) -> None:
    axes.axvline(
        report.threshold, color="black", linestyle=(0, (4, 3)), linewidth=1.2, label=f"threshold {report.threshold:g}"
    )


def _shares(axes: Axes) -> None:
    """Set both axes to the range from 0 to 1."""
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.01)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    style_axes(axes)
    # Below the axes, because inside it would cover curves.
    axes.legend(fontsize=9, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
