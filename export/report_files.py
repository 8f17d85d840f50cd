"""Writes reports as JSON, Markdown and PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from twincar_edge.files import write_text


class Report(Protocol):
    """A report that can be written as JSON and as Markdown."""

    def to_json(self) -> str:
        """Return the report as JSON."""

    def to_markdown(self) -> str:
        """Return the report as Markdown."""


def report_stem(name: str, kind: str) -> str:
    """Return the file name, without suffix, of the report `kind` (`parity`, `int8_search`, …) of the model `name`."""
    return f"{name}.{kind}"


def report_paths(folder: Path, stem: str, *, plotted: bool = False) -> tuple[Path, ...]:
    """Return the paths of the report `stem` in a folder: `.json`, `.md` and, if `plotted`, `.png`."""
    return tuple(folder / f"{stem}{suffix}" for suffix in (".json", ".md", *((".png",) if plotted else ())))


def write_report(
    report: Report, folder: Path, stem: str, plot: Callable[[Path], None] | None = None
) -> tuple[Path, ...]:
    """Write a report into a folder, each file atomically; return the paths.

    Args:
        report: the report.
        folder: the folder to write to.
        stem: the file name without suffix.
        plot: draws the plot; None writes no plot.

    Raises:
        InputError: a file cannot be written.
    """
    paths = report_paths(folder, stem, plotted=plot is not None)
    write_text(paths[0], report.to_json())
    write_text(paths[1], report.to_markdown())
    if plot is not None:
        plot(paths[2])
    return paths
