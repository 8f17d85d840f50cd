"""What a training reached, epoch by epoch, and when that is enough."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass

from twincar_edge.training.metrics import ClassificationMetrics
from twincar_edge.training.recipe import Recipe


@dataclass(frozen=True)
class EpochMetrics:
    """One row of `metrics.csv`: what an epoch cost and reached.

    `epoch` counts from 1. `train_loss` is the mean over the epoch's batches, in nats, with label smoothing and mixing;
    `train_top1` is the share of its images, as they were augmented, whose heaviest label was the answer.
    `validation` holds the figures on the held-out images. `train_size` is the width of the training crops in pixels,
    `learning_rate` the head's when the epoch ended. `images_per_s` counts training images over training time, `seconds`
    is the whole epoch.
    """

    epoch: int
    train_loss: float
    train_top1: float
    validation: ClassificationMetrics
    train_size: int
    learning_rate: float
    images_per_s: float
    seconds: float

    def flat(self) -> dict[str, int | float]:
        """Return the row's figures by the names of their columns; those of the validation begin with `val_`."""
        row = asdict(self)
        validation = {f"val_{name}": value for name, value in row.pop("validation").items()}
        return row | validation


@dataclass(frozen=True)
class History:
    """The epochs of a training so far, oldest first."""

    epochs: tuple[EpochMetrics, ...] = ()

    @property
    def next_epoch(self) -> int:
        """Return the number of the epoch to come, from 1."""
        return len(self.epochs) + 1

    @property
    def best(self) -> EpochMetrics | None:
        """Return the epoch of the highest macro F1; of equals the later, which has seen more."""
        return max(self.epochs, key=lambda row: (row.validation.macro_f1, row.epoch), default=None)

    def with_epoch(self, row: EpochMetrics) -> History:
        """Return the history with one epoch more."""
        return History((*self.epochs, row))

    def ended(self, recipe: Recipe) -> bool:
        """Return whether the training is done: all its epochs, or `patience` epochs without a better one."""
        best = self.best
        if best is None:
            return False
        done = len(self.epochs)
        return done >= recipe.epochs or 0 < recipe.patience <= done - best.epoch

    def to_csv(self) -> str:
        """Return a table with a row for each epoch."""
        text = io.StringIO(newline="")
        rows = [row.flat() for row in self.epochs]
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        return text.getvalue()
