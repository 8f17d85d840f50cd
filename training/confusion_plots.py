"""Pictures of what is taken for what: the confusion matrix, and the pairs that are most often confused."""

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
from twincar_edge.training.plots import ORANGE, TITLE_SIZE, new_figure, plain, save, whole_numbers

WRITTEN_CLASSES = 24  # up to so many the counts are written into the cells
NAMED_CLASSES = 500  # beyond that names would overlap in a picture that still opens
LARGEST_INCHES = 40.0
DRAWN_PAIRS = 20

# Zero stays white, and the lightest colour of a count stands out from it. Blue against orange is told apart with any
# colour vision, so that a mistake is seen among right answers.
_RIGHT = LinearSegmentedColormap.from_list("right", ["#c3daee", "#4292c6", "#08306b"])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#fdc692", "#e6550d", "#7f2704"])
# The root makes room for small shares: one image of 40 is a sixth of the scale, not a fortieth.
_SHARES = PowerNorm(0.5, 0, 1)
_TICKS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


def plot_confusion_matrix(evaluation: Evaluation, path: Path) -> None:
    """Draw which classes (rows) got which answers (columns), as shares of each row's images.

    Only classes that the data set has images of, or that were answered, take part; lines part one make from the next.
    With few classes the counts are written into the cells; with many the picture is large, to be zoomed into.

    Args:
        evaluation: what a model reached.
        path: the PNG to write, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    whole = evaluation.confusion()
    shown = _by_make(np.flatnonzero(whole.sum(axis=0) + whole.sum(axis=1)), evaluation.classes)
    counts = whole[np.ix_(shown, shown)]
    names = [evaluation.classes[label] for label in shown]
    few = len(names) <= WRITTEN_CLASSES
    side = min(LARGEST_INCHES, 5 + 0.4 * len(names) if few else 8 + 0.115 * len(names))
    text_size = TITLE_SIZE if few else 0.8 * side  # what is read without zooming grows with the picture
    figure = new_figure((side + 0.08 * side, side))
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    on_diagonal = np.eye(len(names), dtype=bool)
    for colours, hidden in ((_RIGHT, ~on_diagonal), (_WRONG, on_diagonal)):
        axes.imshow(np.ma.masked_where(hidden | (counts == 0), shares), cmap=colours, norm=_SHARES, aspect="equal")
    _name_axes(axes, names, 9 if few else 6.4)
    _part_makes(axes, names)
    _add_scales(figure, axes, 0.7 * text_size)
    if few:
        _write_counts(axes, counts, shares)
    title = f"Confusion matrix, {evaluation.dataset}: {evaluation.images} images"
    axes.set_title(title, fontsize=text_size, fontweight="bold", pad=text_size, parse_math=False)
    axes.set_ylabel("true class", fontsize=0.85 * text_size)
    axes.set_xlabel("answered class", fontsize=0.85 * text_size)
    save(figure, path)


def plot_most_confused(evaluation: Evaluation, path: Path, count: int = DRAWN_PAIRS) -> None:
    """Draw the wrong answers that were given most often as bars, or say that there are none.

    Args:
        evaluation: what a model reached.
        path: the PNG to write, whole or not at all.
        count: how many pairs of classes, at most.

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
    plain(axes, "x")
    axes.barh(places, counts, height=0.62, color=ORANGE)
    axes.set_yticks(
        places, [f"{pair.truth}\n→ {pair.answer}" for pair in pairs], fontsize=8.5, linespacing=1.15, parse_math=False
    )
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max(counts))
    axes.xaxis.set_major_locator(whole_numbers())
    axes.set_xlabel("images of the true class that got this answer (share of all its images)")
    for place, pair in zip(places, pairs, strict=True):
        axes.annotate(
            f"{pair.count} ({pair.share:.0%})", (pair.count, place), (5, 0), textcoords="offset points", va="center"
        )


def _by_make(labels: NDArray[np.int64], classes: ClassMapping) -> list[int]:
    """Order outputs so that a make's classes stand together, otherwise as they are."""
    return sorted(labels.tolist(), key=lambda label: (classes.vehicle(label).make, label))


def _name_axes(axes: Axes, names: list[str], size: float) -> None:
    if len(names) > NAMED_CLASSES:
        return
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    axes.tick_params(length=2, pad=2)


def _part_makes(axes: Axes, names: list[str]) -> None:
    makes = [parse_name(name).make for name in names]
    borders = [place - 0.5 for place in range(1, len(makes)) if makes[place] != makes[place - 1]]
    for line in (axes.axvline, axes.axhline):
        for border in borders:
            line(border, color="#bdbdbd", linewidth=0.5, zorder=0.5)


def _add_scales(figure: Figure, axes: Axes, size: float) -> None:
    """Add the two scales of colour, which are one scale of shares: the outer one carries its figures."""
    for colours, name in ((_WRONG, "wrong"), (_RIGHT, "right")):
        bar = figure.colorbar(ScalarMappable(_SHARES, colours), ax=axes, shrink=0.5, fraction=0.03, pad=0.025)
        bar.ax.set_title(name, fontsize=size, pad=0.6 * size, rotation=90)  # bars of a small picture are narrow
        bar.set_ticks(list(_TICKS if colours is _WRONG else ()))
        bar.ax.tick_params(labelsize=0.9 * size)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if colours is _WRONG:
            bar.set_label("share of the true class's images", fontsize=size)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(counts).tolist():
        ink = "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=9)
