"""Terminal output of a training run: a line per epoch, and a bar for the current stage."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.cli.logs import logging_to
from twincar_edge.cli.options import echo_above, progress_bar
from twincar_edge.training.distributed import is_main_process

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from twincar_edge.training.history import EpochMetrics
    from twincar_edge.training.metrics import ClassificationMetrics

_STAGES = {
    "check": "checking images",
    "read": "reading images",
    "train": "training",
    "validate": "validating",
    "evaluate": "evaluating",
}


@contextmanager
def reporting(output: Path, epochs: int, folds: int = 0) -> Iterator[TrainingReport]:
    """Report a training of `epochs` epochs and, in cross-validation, `folds` folds; on Ctrl-C, say how to resume it."""
    report = None
    try:
        with progress_bar() as bar, _log_to(bar.console):
            report = TrainingReport(bar, epochs, folds)
            yield report
    except KeyboardInterrupt:
        if report is not None and report.where and is_main_process():
            click.echo(
                f"stopped after {report.where}: the best so far is in {output}; "
                f"continue with: twincar-edge train --resume {output}",
                err=True,
            )
        raise


class TrainingReport:
    """Training callbacks that report on a terminal.

    Attributes:
        where: the last finished epoch; empty before the first.
    """

    def __init__(self, bar: Progress, epochs: int, folds: int) -> None:
        """Report on `bar`; `folds` is 0 without cross-validation."""
        self.where = ""
        self._bar = bar
        self._epochs = epochs
        self._folds = folds
        self._fold = 0
        self._done: list[EpochMetrics] = []
        self._task = bar.add_task("")
        self._stage = ""

    def on_fold(self, number: int) -> None:
        """Start a fold."""
        self._fold, self._done, self._stage = number, [], ""
        echo_above(self._bar, f"fold {number}/{self._folds}")

    def progress(self, stage: str, done: int, total: int) -> None:
        """Move the bar."""
        if stage != self._stage:
            self._stage = stage
            words = _STAGES.get(stage, stage)
            if stage in ("train", "validate"):
                words += f" {self._done[-1].epoch + 1 if self._done else 1}/{self._epochs}"
            self._bar.reset(self._task, description=words, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def on_epoch(self, row: EpochMetrics) -> None:
        """Print the epoch."""
        self._done.append(row)
        self.where = f"epoch {row.epoch}" + (f" of fold {self._fold}" if self._folds else "")
        left = sum(entry.seconds for entry in self._done) / len(self._done) * (self._epochs - row.epoch)
        held_out = row.validation
        reached = "" if held_out is None else f"validation loss {held_out.loss:.3f}, {shares(held_out)}, "
        echo_above(
            self._bar,
            f"epoch {row.epoch}/{self._epochs}: train loss {row.train_loss:.3f}, {reached}"
            f"{row.images_per_s:.0f} images/s, {timedelta(seconds=round(row.seconds))}"
            + (f", {timedelta(seconds=round(left))} left" if left else ""),
        )


def shares(held_out: ClassificationMetrics) -> str:
    """Format the main metrics of the held-out images."""
    return f"top-1 {held_out.top1:.2%}, top-5 {held_out.top5:.2%}, macro F1 {held_out.macro_f1:.2%}"


def _log_to(console: Console) -> AbstractContextManager[None]:
    """Show log messages of `twincar_edge.training` above the bar."""
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    if not is_main_process():
        handler.setLevel(logging.CRITICAL)
    return logging_to(handler, "twincar_edge.training")
