"""The plot of the report: the effect of each condition."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.export.as_camera.report import CameraReport
from twincar_edge.training.plots import BLUE, GRAY, ORANGE, new_figure, save, style_axes


def plot_as_camera(report: CameraReport, path: Path) -> None:
    """Draw the change of top-1 and top-5 under each condition, with its 95% interval.

    Raises:
        InputError: the picture cannot be written.
    """
    title = f"As a camera sees it: {report.name}, {report.images} images of {report.dataset}"
    figure = new_figure((10, 1.6 + 0.42 * len(report.conditions)), title)
    axes = figure.subplots()
    style_axes(axes, "x")
    axes.axvline(0, color=GRAY, linewidth=1)
    for place, found in enumerate(report.conditions):
        for offset, color, label, change, (low, high) in (
            (-0.14, BLUE, f"top-1, unchanged: {report.top1:.2%}", found.top1_change, found.top1_interval),
            (0.14, ORANGE, f"top-5, unchanged: {report.top5:.2%}", found.top5_change, found.top5_interval),
        ):
            axes.plot([100 * low, 100 * high], [place + offset] * 2, color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot([100 * change], [place + offset], "o", color=color, label=label if place == 0 else None)
    axes.set_yticks(range(len(report.conditions)), [found.name for found in report.conditions])
    axes.invert_yaxis()
    axes.set_xlabel("change in points; bars: 95% interval of the paired difference")
    figure.legend(fontsize=9, frameon=False, ncols=2, loc="outside lower center")  # inside, it would cover a row
    save(figure, path)
