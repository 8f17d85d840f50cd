"""The metrics of each epoch of a training run, and early stopping."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass

from twincar_edge.training.metrics import ClassificationMetrics
from twincar_edge.training.recipe import Recipe


@dataclass(frozen=True)
class EpochMetrics:
    """One row of `metrics.csv`: the metrics and the duration of an epoch.

    `epoch` counts from 1. `train_loss` is the mean over the epoch's batches, in nats, with label smoothing and mixing.
    `train_top1` is the share (0 to 1) of augmented images whose answer was the label of the largest weight.
    `validation` holds the metrics on the held-out images, None if there are none. `train_size` is the width of the
    training crops in pixels, `learning_rate` the head's at the end of the epoch. `images_per_s` counts training images
    per second of training, `seconds` is the duration of the whole epoch.
    """

    epoch: int
    train_loss: float
    train_top1: float
    validation: ClassificationMetrics | None
    train_size: int
    learning_rate: float
    images_per_s: float
    seconds: float

    def flat(self) -> dict[str, int | float]:
        """Return the row's values by column name; validation metrics have the prefix `val_`."""
        row = asdict(self)
        validation = row.pop("validation") or {}
        return row | {f"val_{name}": value for name, value in validation.items()}


@dataclass(frozen=True)
class History:
    """The completed epochs of a training run, oldest first."""

    epochs: tuple[EpochMetrics, ...] = ()

    @property
    def next_epoch(self) -> int:
        """Return the number of the next epoch, from 1."""
        return len(self.epochs) + 1

    @property
    def best(self) -> EpochMetrics | None:
        """Return the epoch of the highest macro F1, or the last one without validation; ties go to the later epoch."""
        return max(
            self.epochs, key=lambda row: (row.validation.macro_f1 if row.validation else 0, row.epoch), default=None
        )

    @property
    def validated(self) -> bool:
        """Return whether there are metrics on held-out images."""
        return any(row.validation is not None for row in self.epochs)

    def with_epoch(self, row: EpochMetrics) -> History:
        """Return a copy with this epoch appended."""
        return History((*self.epochs, row))

    def ended(self, recipe: Recipe) -> bool:
        """Return whether training is done: after all epochs, or after `patience` epochs without an improvement."""
        best = self.best
        if best is None:
            return False
        done = len(self.epochs)
        return done >= recipe.epochs or 0 < recipe.patience <= done - best.epoch

    def to_csv(self) -> str:
        """Return a CSV table with a row for each epoch."""
        text = io.StringIO(newline="")
        rows = [row.flat() for row in self.epochs]
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        return text.getvalue()
