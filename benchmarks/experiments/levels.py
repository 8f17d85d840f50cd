"""Measures coverage and accuracy at each level of a name, on labeled images of cars.

    python -m twincar_edge.benchmarks.experiments levels DATA [--images DIR] [--model MODEL] -o levels.json

The threshold decides the level of an answer. The report compares the model's threshold with others.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.experiments.options import model_option, output_option, publish
from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import data_options
from twincar_edge.dataset_logits import dataset_logits, labels_for
from twincar_edge.datasets import Dataset, OpenOptions
from twincar_edge.machine import Machine, this_machine
from twincar_edge.manifest import DataRecord, Precision
from twincar_edge.metrics import softmax
from twincar_edge.records import Record, Share
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Hierarchy, Level
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.levels import certainty_by_level
from twincar_edge.runtime.inference.session import open_session

SCHEMA_VERSION: Literal[1] = 1
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TITLES: dict[Level, str] = {"year": "full name", "model": "model or deeper", "make": "make or deeper"}


class LevelFigures(Record):
    """The share of answers at this level or a deeper one, and their accuracy at this level (None if there are none)."""

    coverage: Share
    right: Share | None


class ThresholdFigures(Record):
    """Results of a threshold at each level; "year" is the full name."""

    threshold: Share
    levels: dict[Level, LevelFigures]


class LevelsReport(Record):
    """The full measurement. `threshold` is the model's own, which is one of the `points`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    data: DataRecord
    model: str
    model_sha256: str
    precision: Precision
    top1: Share
    threshold: Share
    points: tuple[ThresholdFigures, ...]

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        head = f"{self.model}, {self.precision}, on {self.data.images} images: top-1 {self.top1:.2%}"
        return f"{head}\n\n{levels_table(self.points, self.threshold)}\n"


def level_points(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    hierarchy: Hierarchy,
    thresholds: Iterable[float],
) -> tuple[ThresholdFigures, ...]:
    """Return the results for each threshold, in ascending order.

    Args:
        probabilities: calibrated probabilities, float32 [N, classes], N at least 1.
        labels: int64 [N].
        hierarchy: the hierarchy of the classes.
        thresholds: thresholds from 0 to 1.
    """
    certainty = certainty_by_level(probabilities, hierarchy, labels)
    return tuple(
        ThresholdFigures(
            threshold=threshold,
            levels={
                level: LevelFigures(coverage=known.coverage(threshold), right=known.accuracy(threshold))
                for level, known in certainty.items()
            },
        )
        for threshold in sorted(set(thresholds))
    )


def levels_table(points: Iterable[ThresholdFigures], own: float) -> str:
    """Return the points as a Markdown table, with the row of the model's own threshold in bold."""
    heads = [head for level in KNOWN_LEVELS for head in (TITLES[level], "right")]
    lines = ["| threshold | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for point in points:
        cells = [f"{point.threshold:g}"]
        for level in KNOWN_LEVELS:
            found = point.levels[level]
            cells += [f"{found.coverage:.1%}", "none" if found.right is None else f"{found.right:.1%}"]
        lines.append("| " + " | ".join(f"**{cell}**" if point.threshold == own else cell for cell in cells) + " |")
    return "\n".join(lines)


def measure_levels(dataset: Dataset, model: Path | None = None, threads: int | None = None) -> LevelsReport:
    """Measure coverage and accuracy at each level and threshold.

    Args:
        dataset: usable images that were not used for training.
        model: an exported model; None for the bundled one.
        threads: threads per inference; None for all usable cores.

    Raises:
        InputError: the data set is empty, an image is unusable, or the model lacks one of the classes.
        ModelError: the model cannot be used.
    """
    classifier = Classifier(open_session(model or default_model(), threads=threads, spinning=True))
    manifest = classifier.manifest
    labels = labels_for(dataset, manifest.class_mapping)
    logits = dataset_logits(classifier.session.run, dataset, manifest.preprocess)
    probabilities = softmax(logits, manifest.temperature)
    return LevelsReport(
        created=datetime.now(UTC),
        machine=this_machine(),
        data=dataset.record(),
        model=manifest.name,
        model_sha256=classifier.session.sha256,
        precision=manifest.precision,
        top1=float((probabilities.argmax(axis=1) == labels).mean()),
        threshold=manifest.reject_below,
        points=level_points(probabilities, labels, classifier.hierarchy, (*THRESHOLDS, manifest.reject_below)),
    )


@click.command("levels", cls=Command)
@data_options(argument=True)
@model_option
@click.option("--threads", type=int, help="Threads per inference.  [default: all usable cores]")
@output_option
def command(data: OpenOptions, model: Path | None, threads: int | None, output: Path | None) -> None:
    """Measure coverage and accuracy at each level of a name on DATA, labeled images not used for training."""
    report = measure_levels(data.open(), model, threads)
    publish(report, report.to_markdown(), output)
