"""What a training returns. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.training.history import EpochMetrics

if TYPE_CHECKING:
    from twincar_edge.training.extension import ExtensionReport


@dataclass(frozen=True)
class TrainingResult:
    """What a training gave: its folder, an entry for each epoch, and the best of them, which `checkpoint` holds.

    `extension` holds it against the model that it extends; None of any other training.

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
