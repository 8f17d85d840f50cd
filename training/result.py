"""The result of a training run. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.training.history import EpochMetrics

if TYPE_CHECKING:
    from twincar_edge.training.extension import ExtensionReport


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run: its folder, the metrics of each epoch, and the best epoch, saved in `checkpoint`.

    Without validation images, `best` is the last epoch and its `validation` is None. `extension` compares the model
    with the one that it extends; None if it extends none.

    After `trained = tw.train(...)`:

    >>> trained.checkpoint.name, len(trained.epochs)
    ('best.pt', 1)
    >>> 0 <= trained.best.validation.top1 <= trained.best.validation.top5
    True
    """

    run_folder: Path
    checkpoint: Path
    epochs: tuple[EpochMetrics, ...]
    best: EpochMetrics
    extension: ExtensionReport | None = None
