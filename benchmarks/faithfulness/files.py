"""Writes the files of a faithfulness report: JSON, Markdown, and a plot with two curves for each map."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.benchmarks.faithfulness.report import FaithfulnessReport
from twincar_edge.errors import require
from twincar_edge.files import replacing, write_text

STEM = "explanations"
_COLORS = ("#1f5fa8", "#56b4e9", "#009e73", "#d9730d", "#cc79a7", "#e69f00", "#000000", "#8a8a8a")


def write_faithfulness(report: FaithfulnessReport, folder: Path) -> tuple[Path, ...]:
    """Write `explanations.json`, `.md` and `.png` into a folder, each atomically; return the paths.

    Raises:
        InputError: a file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "bench")
    paths = tuple(folder / f"{STEM}{suffix}" for suffix in (".json", ".md", ".png"))
    write_text(paths[0], report.to_json())
    write_text(paths[1], report.to_markdown())
    _plot(report, paths[2])
    return paths


def _plot(report: FaithfulnessReport, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 5.6), layout="constrained")
    figure.suptitle(f"Explanations: {report.model}, {report.images} images", fontsize=12)
    left, right = figure.subplots(1, 2, sharey=True)
    for row, color in zip(report.rows, _COLORS, strict=False):
        percent = [100 * step / (len(row.deletion_curve) - 1) for step in range(len(row.deletion_curve))]
        line = "--" if "random" in row.method else "-"
        left.plot(percent, row.deletion_curve, color=color, linestyle=line, label=row.method)
        right.plot(percent, row.insertion_curve, color=color, linestyle=line)
    left.set_title("Deletion, hottest pixels first: lower is better", fontsize=11)
    right.set_title("Insertion, hottest pixels first: higher is better", fontsize=11)
    for axes in (left, right):
        axes.set_xlabel("pixels, %")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("probability of the class")
    left.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
