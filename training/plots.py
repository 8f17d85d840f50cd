"""The curves of a training, epoch by epoch, as PNG files.

Figures are built without pyplot: nothing is kept between them, and no display is needed. The colours are Okabe and
Ito's, which people tell apart with any colour vision; markers differ as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from twincar_edge.files import replacing
from twincar_edge.training.history import EpochMetrics, History

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6b6b6b"
DPI = 130
TITLE_SIZE = 13  # points
MARKED_EPOCHS = 40  # beyond that markers run into one another

_MARKERS = {BLUE: "o", ORANGE: "s", GREEN: "^"}
_Curve = tuple[str, str, Callable[[EpochMetrics], float]]
"""A curve: its name, its colour, and its value in an epoch."""


def plot_loss_and_accuracy(history: History, path: Path) -> None:
    """Draw loss (left) and top-1 accuracy (right) on training and held-out images over the epochs.

    The training's figures are those on augmented images, its loss on smoothed and mixed labels: it may well be the
    worse of the two.

    Args:
        history: one epoch or more.
        path: the PNG to write, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    figure = new_figure((11, 4.6), "Loss and accuracy")
    left, right = figure.subplots(1, 2)
    losses: list[_Curve] = [
        ("training, augmented", BLUE, lambda row: row.train_loss),
        ("validation", ORANGE, lambda row: row.validation.loss),
    ]
    shares: list[_Curve] = [
        ("training, augmented", BLUE, lambda row: row.train_top1),
        ("validation", ORANGE, lambda row: row.validation.top1),
    ]
    _draw(left, history, losses, "{:.3f}")
    left.set_ylim(0, 1.05 * left.dataLim.y1)
    left.set_ylabel("cross-entropy loss (nats)")
    _draw_shares(right, history, shares, "top-1 accuracy (share of images)")
    save(figure, path)


def plot_precision_recall(history: History, path: Path) -> None:
    """Draw precision, recall and F1 on the held-out images over the epochs: macro (left) and weighted (right).

    Args:
        history: one epoch or more.
        path: the PNG to write, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    figure = new_figure((11, 4.8), "Precision, recall and F1 on the validation images")
    left, right = figure.subplots(1, 2)
    macro: list[_Curve] = [
        ("precision", BLUE, lambda row: row.validation.macro_precision),
        ("recall", ORANGE, lambda row: row.validation.macro_recall),
        ("F1", GREEN, lambda row: row.validation.macro_f1),
    ]
    weighted: list[_Curve] = [
        ("precision", BLUE, lambda row: row.validation.weighted_precision),
        ("recall", ORANGE, lambda row: row.validation.weighted_recall),
        ("F1", GREEN, lambda row: row.validation.weighted_f1),
    ]
    _draw_shares(left, history, macro, "macro average (each class counts the same)")
    _draw_shares(right, history, weighted, "weighted average (each image counts the same)")
    top = max(left.get_ylim()[1], right.get_ylim()[1])  # two scales side by side would be read as one
    left.set_ylim(0, top)
    right.set_ylim(0, top)
    save(figure, path)


def plot_topk(history: History, path: Path) -> None:
    """Draw top-1, top-3 and top-5 accuracy on the held-out images over the epochs.

    Args:
        history: one epoch or more.
        path: the PNG to write, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    figure = new_figure((8, 4.8), "The right class among the best 1, 3 and 5 guesses, validation images")
    curves: list[_Curve] = [
        ("top-5", GREEN, lambda row: row.validation.top5),
        ("top-3", ORANGE, lambda row: row.validation.top3),
        ("top-1", BLUE, lambda row: row.validation.top1),
    ]
    _draw_shares(figure.subplots(), history, curves, "accuracy (share of images)")
    save(figure, path)


def new_figure(size_inches: tuple[float, float], title: str = "") -> Figure:
    """Return an empty figure, with a title where one is given, whose parts make room for one another."""
    figure = Figure(figsize=size_inches, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE, fontweight="bold", parse_math=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", facecolor="white", bbox_inches="tight")


def plain(axes: Axes, grid: Literal["both", "x"] = "both") -> None:
    """Take away what an axes shows and nobody reads, and lay a faint grid under the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis=grid, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def whole_numbers() -> MaxNLocator:
    """Return what puts the ticks of an axis at whole numbers, one tick if there is but one."""
    return MaxNLocator(integer=True, min_n_ticks=1)


def _draw(axes: Axes, history: History, curves: Sequence[_Curve], figure_format: str) -> None:
    """Draw curves over the epochs; the legend gives their figures in the best epoch, which a line marks."""
    epochs = [row.epoch for row in history.epochs]
    best = history.best
    plain(axes)
    for name, colour, value in curves:
        marker = _MARKERS[colour] if len(epochs) <= MARKED_EPOCHS else ""
        label = name if best is None else f"{name}: {figure_format.format(value(best))}"
        values = [value(row) for row in history.epochs]
        axes.plot(epochs, values, color=colour, marker=marker, markersize=4.5, label=label)
    if best is not None:
        axes.axvline(best.epoch, color=GREY, linestyle=(0, (4, 3)), linewidth=1.3, zorder=1, label="best epoch")
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, max(epochs, default=1) + 0.5)  # also one epoch has a width
    axes.xaxis.set_major_locator(whole_numbers())
    title = "" if best is None else f"in the best epoch, {best.epoch}"
    axes.legend(loc="best", title=title, title_fontsize=9, fontsize=9, framealpha=0.9, edgecolor="#dddddd")


def _draw_shares(axes: Axes, history: History, curves: Sequence[_Curve], label: str) -> None:
    """Draw curves of shares, on an axis from 0 to 100 % or a little above its data."""
    _draw(axes, history, curves, "{:.1%}")
    axes.set_ylim(0, min(1.03, max(0.01, 1.08 * axes.dataLim.y1)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel(label)
