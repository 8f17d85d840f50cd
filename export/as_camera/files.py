"""The files of a report on pictures as a camera gives them."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.errors import require
from twincar_edge.export.as_camera.report import CameraReport
from twincar_edge.export.report_files import write_report

STEM = "as_camera"


def write_as_camera(report: CameraReport, folder: Path) -> tuple[Path, ...]:
    """Write `as_camera.json`, `.md` and `.png` into a folder, each whole or not at all; return their paths.

    Raises:
        InputError: they cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "train")
    from twincar_edge.export.as_camera.plot import plot_as_camera

    return write_report(report, folder, STEM, lambda path: plot_as_camera(report, path))
