"""The files of a report on explanations: JSON, Markdown and the two curves of each map."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.benchmarks.faithfulness.report import FaithfulnessReport
from twincar_edge.errors import require
from twincar_edge.files import replacing, write_text

STEM = "explanations"
_COLOURS = ("#1f5fa8", "#56b4e9", "#009e73", "#d9730d", "#cc79a7", "#e69f00", "#000000", "#8a8a8a")


def write_faithfulness(report: FaithfulnessReport, folder: Path) -> tuple[Path, ...]:
    """Write `explanations.json`, `.md` and `.png` into a folder, each whole or not at all; return their paths.

    Raises:
        InputError: they cannot be written.
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
    figure.suptitle(f"Explanations: {report.model}, {report.images} pictures", fontsize=12)
    left, right = figure.subplots(1, 2, sharey=True)
    for row, colour in zip(report.rows, _COLOURS, strict=False):
        across = [100 * step / (len(row.deletion_curve) - 1) for step in range(len(row.deletion_curve))]
        line = "--" if "random" in row.method else "-"
        left.plot(across, row.deletion_curve, color=colour, linestyle=line, label=row.method)
        right.plot(across, row.insertion_curve, color=colour, linestyle=line)
    left.set_title("Hottest pixels blurred away: lower is better", fontsize=11)
    right.set_title("Hottest pixels put in: higher is better", fontsize=11)
    for axes in (left, right):
        axes.set_xlabel("pixels, %")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("probability of the class")
    left.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
