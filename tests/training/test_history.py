"""The history of a training has its best epoch, and decides when training ends."""

from __future__ import annotations

import csv
from dataclasses import fields

from tests.support.training_toys import toy_recipe
from twincar_edge.training.history import EpochMetrics, History
from twincar_edge.training.metrics import ClassificationMetrics


def history(*macro_f1: float) -> History:
    found = History()
    for value in macro_f1:
        figures = dict.fromkeys((field.name for field in fields(ClassificationMetrics)), 0.25) | {"macro_f1": value}
        metrics = ClassificationMetrics(**figures)
        found = found.with_epoch(EpochMetrics(found.next_epoch, 2.5, 0.5, metrics, 32, 1e-3, 9, 1))
    return found


def test_of_equal_epochs_the_later_is_the_best() -> None:
    assert history().best is None and history().next_epoch == 1
    best = history(0.1, 0.4, 0.3, 0.4, 0.2).best
    assert best is not None and best.epoch == 4


def test_training_ends_after_all_epochs_or_by_patience() -> None:
    recipe = toy_recipe(epochs=5, patience=2)
    assert not history().ended(recipe)
    assert not history(0.5, 0.4).ended(recipe)
    assert history(0.5, 0.4, 0.4).ended(recipe)
    assert not history(0.5, 0.4, 0.5).ended(recipe)
    assert not history(0.5, 0.4, 0.4, 0.4).ended(toy_recipe(epochs=5, patience=0))
    assert history(0.1, 0.2, 0.3, 0.4, 0.5).ended(recipe)


def test_the_table_has_a_row_per_epoch_and_a_column_per_metric() -> None:
    rows = list(csv.DictReader(history(0.5, 0.125).to_csv().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["val_macro_f1"] for row in rows] == ["0.5", "0.125"]
    assert {f"val_{field.name}" for field in fields(ClassificationMetrics)} <= set(rows[0])
    assert (rows[0]["train_loss"], rows[0]["train_top1"], rows[0]["train_size"]) == ("2.5", "0.5", "32")
