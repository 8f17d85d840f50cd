"""Plots of wrong answers: the confusion matrix, and the most confused pairs of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from twincar_edge.labels import ClassMapping, parse_name
from twincar_edge.training.evaluation import ConfusedPair, Evaluation
from twincar_edge.training.plots import ORANGE, TITLE_SIZE, integer_ticks, new_figure, save, style_axes

MAX_CLASSES_WITH_COUNTS = 24  # with more, the counts do not fit into the cells
MAX_NAMED_CLASSES = 500  # with more, names overlap even at the largest size
LARGEST_INCHES = 40.0
DRAWN_PAIRS = 20

# Zero stays white, and even the lightest color of a count differs from it. Blue and orange differ under any kind of
# color vision, so mistakes stand out among right answers.
_RIGHT = LinearSegmentedColormap.from_list("right", ["#c3daee", "#4292c6", "#08306b"])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#fdc692", "#e6550d", "#7f2704"])
# The square root spreads small shares: one image of 40 is a sixth of the scale, not a fortieth.
_SHARES = PowerNorm(0.5, 0, 1)
_TICKS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


def plot_confusion_matrix(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion matrix: true classes (rows), answers (columns), as shares of each row's images.

    Shows only classes that have images or were given as answers, with lines between makes. With few classes, the cells
    contain the counts; with many, the picture is large enough to zoom into.

    Args:
        evaluation: the evaluation to draw.
        path: the PNG, written atomically.

    Raises:
        InputError: it cannot be written.
    """
    whole = evaluation.confusion()
    shown = _by_make(np.flatnonzero(whole.sum(axis=0) + whole.sum(axis=1)), evaluation.classes)
    counts = whole[np.ix_(shown, shown)]
    names = [evaluation.classes[label] for label in shown]
    few = len(names) <= MAX_CLASSES_WITH_COUNTS
    side = min(LARGEST_INCHES, 5 + 0.4 * len(names) if few else 8 + 0.115 * len(names))
    text_size = TITLE_SIZE if few else 0.8 * side  # titles must be legible without zooming
    figure = new_figure((side + 0.08 * side, side))
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    on_diagonal = np.eye(len(names), dtype=bool)
    for colors, hidden in ((_RIGHT, ~on_diagonal), (_WRONG, on_diagonal)):
        axes.imshow(np.ma.masked_where(hidden | (counts == 0), shares), cmap=colors, norm=_SHARES, aspect="equal")
    _label_axes(axes, names, 9 if few else 6.4)
    _separate_makes(axes, names)
    _add_color_bars(figure, axes, 0.7 * text_size)
    if few:
        _write_counts(axes, counts, shares)
    title = f"Confusion matrix, {evaluation.dataset}: {evaluation.images} images"
    axes.set_title(title, fontsize=text_size, fontweight="bold", pad=text_size, parse_math=False)
    axes.set_ylabel("true class", fontsize=0.85 * text_size)
    axes.set_xlabel("answered class", fontsize=0.85 * text_size)
    save(figure, path)


def plot_most_confused(evaluation: Evaluation, path: Path, count: int = DRAWN_PAIRS) -> None:
    """Draw the most frequent wrong answers as bars, or a note that there are none.

    Args:
        evaluation: the evaluation to draw.
        path: the PNG, written atomically.
        count: the maximum number of class pairs.

    Raises:
        InputError: it cannot be written.
    """
    pairs = evaluation.most_confused(count)
    title = f"Most confused classes, {evaluation.dataset}: true class → answer"
    figure = new_figure((11, 1.3 + 0.44 * max(3, len(pairs))), title)
    axes = figure.subplots()
    if pairs:
        _draw_pairs(axes, pairs)
    else:
        axes.axis("off")
        axes.text(0.5, 0.5, f"No class was confused: all {evaluation.images} answers are right.", ha="center", size=14)
    save(figure, path)


def _draw_pairs(axes: Axes, pairs: tuple[ConfusedPair, ...]) -> None:
    counts = [pair.count for pair in pairs]
    places = range(len(pairs))
    style_axes(axes, "x")
    axes.barh(places, counts, height=0.62, color=ORANGE)
    axes.set_yticks(
        places, [f"{pair.truth}\n→ {pair.answer}" for pair in pairs], fontsize=8.5, linespacing=1.15, parse_math=False
    )
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max(counts))
    axes.xaxis.set_major_locator(integer_ticks())
    axes.set_xlabel("images of the true class that got this answer (share of all its images)")
    for place, pair in zip(places, pairs, strict=True):
        axes.annotate(
            f"{pair.count} ({pair.share:.0%})", (pair.count, place), (5, 0), textcoords="offset points", va="center"
        )


def _by_make(labels: NDArray[np.int64], classes: ClassMapping) -> list[int]:
    """Return the outputs grouped by make, in output order within a make."""
    return sorted(labels.tolist(), key=lambda label: (classes.vehicle(label).make, label))


def _label_axes(axes: Axes, names: list[str], size: float) -> None:
    if len(names) > MAX_NAMED_CLASSES:
        return
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    axes.tick_params(length=2, pad=2)


def _separate_makes(axes: Axes, names: list[str]) -> None:
    makes = [parse_name(name).make for name in names]
    borders = [place - 0.5 for place in range(1, len(makes)) if makes[place] != makes[place - 1]]
    for line in (axes.axvline, axes.axhline):
        for border in borders:
            line(border, color="#bdbdbd", linewidth=0.5, zorder=0.5)


def _add_color_bars(figure: Figure, axes: Axes, size: float) -> None:
    """Add the two color bars, which share one scale; only the outer one has tick labels."""
    for colors, name in ((_WRONG, "wrong"), (_RIGHT, "right")):
        bar = figure.colorbar(ScalarMappable(_SHARES, colors), ax=axes, shrink=0.5, fraction=0.03, pad=0.025)
        bar.ax.set_title(name, fontsize=size, pad=0.6 * size, rotation=90)  # bars of a small picture are narrow
        bar.set_ticks(list(_TICKS if colors is _WRONG else ()))
        bar.ax.tick_params(labelsize=0.9 * size)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if colors is _WRONG:
            bar.set_label("share of the true class's images", fontsize=size)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(counts).tolist():
        ink = "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=9)
