"""The reports of an export. They have the model's name, so that exports of several names share a folder."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from twincar_edge.errors import InputError
from twincar_edge.export.confidence.files import write_confidence
from twincar_edge.export.confidence.report import ConfidenceReport
from twincar_edge.export.int8.report import SearchReport
from twincar_edge.export.open_set.files import write_open_set
from twincar_edge.export.open_set.report import OpenSetReport
from twincar_edge.export.parity.files import write_parity
from twincar_edge.export.parity.report import ParityReport
from twincar_edge.export.report_files import report_paths, report_stem, write_report
from twincar_edge.manifest import Precision


def write_model_reports(
    folder: Path, name: str, parity: ParityReport, confidence: ConfidenceReport, search: SearchReport | None
) -> None:
    """Write the reports of the model `name`, and remove those of an earlier export that this one does not write.

    Raises:
        InputError: a file cannot be written or removed.
        MissingExtraError: matplotlib is not installed.
    """
    write_parity(parity, folder, report_stem(name, "parity"))
    write_confidence(confidence, folder, report_stem(name, "confidence"))
    searched = report_stem(name, "int8_search")
    stale = () if search is not None else report_paths(folder, searched)
    for precision in get_args(Precision):
        stale += report_paths(folder, _open_set_stem(name, precision), plotted=True)
    for path in stale:
        remove_earlier(path)
    if search is not None:
        write_report(search, folder, searched)


def write_model_open_set(folder: Path, name: str, precision: Precision, report: OpenSetReport) -> None:
    """Write the open-set report of one file of the model `name`; errors as for `write_model_reports`."""
    write_open_set(report, folder, _open_set_stem(name, precision))


def remove_earlier(path: Path) -> None:
    """Remove a file of an earlier export, if there is one.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {path}, left by an earlier export: {error.strerror}") from error


def _open_set_stem(name: str, precision: Precision) -> str:
    return report_stem(name, f"open_set_{precision}")
