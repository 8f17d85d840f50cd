"""Training curves by epoch, as PNG files.

Figures are built without pyplot, so they share no global state and need no display. The colors are Okabe and Ito's,
which can be told apart with any kind of color vision; the markers differ too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from twincar_edge.files import replacing
from twincar_edge.training.history import EpochMetrics, History
from twincar_edge.training.metrics import ClassificationMetrics

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#6b6b6b"
DPI = 130
TITLE_SIZE = 13  # points
MAX_MARKED_EPOCHS = 40  # with more, markers overlap

_MARKERS = {BLUE: "o", ORANGE: "s", GREEN: "^"}
_Curve = tuple[str, str, Callable[[EpochMetrics], float]]
"""A curve: its name, its color, and its value in an epoch."""


def _held_out(name: str, color: str, value: Callable[[ClassificationMetrics], float]) -> _Curve:
    """Return the curve of a figure on the held-out images, of which there are some."""

    def of_epoch(row: EpochMetrics) -> float:
        assert row.validation is not None, "nothing was held out"
        return value(row.validation)

    return name, color, of_epoch


def plot_loss_and_accuracy(history: History, path: Path) -> None:
    """Plot loss (left) and top-1 accuracy (right) on training images, and on any held-out ones, over the epochs.

    The training curves are measured on augmented images, the training loss on smoothed and mixed labels. So they can be
    worse than the validation curves.

    Args:
        history: at least one epoch.
        path: the PNG, written atomically.

    Raises:
        InputError: it cannot be written.
    """
    figure = new_figure((11, 4.6), "Loss and accuracy")
    left, right = figure.subplots(1, 2)
    losses: list[_Curve] = [("training, augmented", BLUE, lambda row: row.train_loss)]
    shares: list[_Curve] = [("training, augmented", BLUE, lambda row: row.train_top1)]
    if history.validated:
        losses.append(_held_out("validation", ORANGE, lambda found: found.loss))
        shares.append(_held_out("validation", ORANGE, lambda found: found.top1))
    _draw(left, history, losses, "{:.3f}")
    left.set_ylim(0, 1.05 * left.dataLim.y1)
    left.set_ylabel("cross-entropy loss (nats)")
    _draw_shares(right, history, shares, "top-1 accuracy (share of images)")
    save(figure, path)


def plot_precision_recall(history: History, path: Path) -> None:
    """Plot precision, recall and F1 on the held-out images over the epochs: macro (left) and weighted (right).

    Args:
        history: at least one epoch, with validation metrics.
        path: the PNG, written atomically.

    Raises:
        InputError: it cannot be written.
    """
    figure = new_figure((11, 4.8), "Precision, recall and F1 on the validation images")
    left, right = figure.subplots(1, 2)
    macro: list[_Curve] = [
        _held_out("precision", BLUE, lambda found: found.macro_precision),
        _held_out("recall", ORANGE, lambda found: found.macro_recall),
        _held_out("F1", GREEN, lambda found: found.macro_f1),
    ]
    weighted: list[_Curve] = [
        _held_out("precision", BLUE, lambda found: found.weighted_precision),
        _held_out("recall", ORANGE, lambda found: found.weighted_recall),
        _held_out("F1", GREEN, lambda found: found.weighted_f1),
    ]
    _draw_shares(left, history, macro, "macro average (equal weight per class)")
    _draw_shares(right, history, weighted, "weighted average (equal weight per image)")
    top = max(left.get_ylim()[1], right.get_ylim()[1])  # readers compare the two plots, so they share one scale
    left.set_ylim(0, top)
    right.set_ylim(0, top)
    save(figure, path)


def plot_topk(history: History, path: Path) -> None:
    """Plot top-1, top-3 and top-5 accuracy on the held-out images over the epochs.

    Args:
        history: at least one epoch, with validation metrics.
        path: the PNG, written atomically.

    Raises:
        InputError: it cannot be written.
    """
    figure = new_figure((8, 4.8), "Top-1, top-3 and top-5 accuracy on the validation images")
    curves: list[_Curve] = [
        _held_out("top-5", GREEN, lambda found: found.top5),
        _held_out("top-3", ORANGE, lambda found: found.top3),
        _held_out("top-1", BLUE, lambda found: found.top1),
    ]
    _draw_shares(figure.subplots(), history, curves, "accuracy (share of images)")
    save(figure, path)


def new_figure(size_inches: tuple[float, float], title: str = "") -> Figure:
    """Return an empty figure with a constrained layout and, optionally, a title."""
    figure = Figure(figsize=size_inches, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE, fontweight="bold", parse_math=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, atomically. Characters that no font has, such as Chinese ones, are drawn as boxes.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # one for each character
        figure.savefig(temporary, dpi=DPI, format="png", facecolor="white", bbox_inches="tight")


def style_axes(axes: Axes, grid: Literal["both", "x"] = "both") -> None:
    """Remove the top and right spines, and add a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis=grid, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def integer_ticks() -> MaxNLocator:
    """Return a locator that places ticks at integers only, at least one."""
    return MaxNLocator(integer=True, min_n_ticks=1)


def _draw(axes: Axes, history: History, curves: Sequence[_Curve], value_format: str) -> None:
    """Plot curves over the epochs. The legend has their values in the best epoch, marked by a line, or in the last."""
    epochs = [row.epoch for row in history.epochs]
    best = history.best
    style_axes(axes)
    for name, color, value in curves:
        marker = _MARKERS[color] if len(epochs) <= MAX_MARKED_EPOCHS else ""
        label = name if best is None else f"{name}: {value_format.format(value(best))}"
        values = [value(row) for row in history.epochs]
        axes.plot(epochs, values, color=color, marker=marker, markersize=4.5, label=label)
    if best is not None and history.validated:
        axes.axvline(best.epoch, color=GRAY, linestyle=(0, (4, 3)), linewidth=1.3, zorder=1, label="best epoch")
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, max(epochs, default=1) + 0.5)  # not of zero width for a single epoch
    axes.xaxis.set_major_locator(integer_ticks())
    title = "" if best is None else f"in the {'best' if history.validated else 'last'} epoch, {best.epoch}"
    axes.legend(loc="best", title=title, title_fontsize=9, fontsize=9, framealpha=0.9, edgecolor="#dddddd")


def _draw_shares(axes: Axes, history: History, curves: Sequence[_Curve], label: str) -> None:
    """Plot curves of shares, on an axis from 0 to slightly above the data, at most slightly above 100%."""
    _draw(axes, history, curves, "{:.1%}")
    axes.set_ylim(0, min(1.03, max(0.01, 1.08 * axes.dataLim.y1)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel(label)
