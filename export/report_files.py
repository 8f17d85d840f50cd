"""The files of a report, the same for everything that an export finds out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from twincar_edge.files import write_text


class Report(Protocol):
    """What can be written for machines and for people."""

    def to_json(self) -> str:
        """Return the report as JSON."""

    def to_markdown(self) -> str:
        """Return the report as Markdown."""


def report_paths(folder: Path, stem: str, *, plotted: bool = False) -> tuple[Path, ...]:
    """Return where the report called `stem` lies in a folder: `.json`, `.md` and, where there is a picture, `.png`."""
    return tuple(folder / f"{stem}{suffix}" for suffix in (".json", ".md", *((".png",) if plotted else ())))


def write_report(
    report: Report, folder: Path, stem: str, plot: Callable[[Path], None] | None = None
) -> tuple[Path, ...]:
    """Write a report into a folder, each file whole or not at all; return their paths.

    Args:
        report: what was found.
        folder: where to.
        stem: what the files are called, without suffix.
        plot: draws the picture; None leaves it out.

    Raises:
        InputError: they cannot be written.
    """
    paths = report_paths(folder, stem, plotted=plot is not None)
    write_text(paths[0], report.to_json())
    write_text(paths[1], report.to_markdown())
    if plot is not None:
        plot(paths[2])
    return paths
