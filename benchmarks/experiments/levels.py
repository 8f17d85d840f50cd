"""Coverage against accuracy at each level of a name, on labelled pictures of cars.

    python -m twincar_edge.benchmarks.experiments levels DATA [--images DIR] [--model MODEL] -o levels.json

A model's own threshold decides how far an answer goes. This says what that one gives, and others beside it.
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
TITLES: dict[Level, str] = {"year": "in full", "model": "model or more", "make": "make or more"}


class LevelFigures(Record):
    """The share of answers that go so far or farther, and the share of these that are right so far; None of none."""

    coverage: Share
    right: Share | None


class ThresholdFigures(Record):
    """What a threshold gives at each level: "year" is the class in full."""

    threshold: Share
    levels: dict[Level, LevelFigures]


class LevelsReport(Record):
    """A whole measurement: `threshold` is the model's own, and among the `points`."""

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
        """Return what was found as Markdown."""
        head = f"{self.model}, {self.precision}, on {self.data.images} pictures: top-1 {self.top1:.2%}"
        return f"{head}\n\n{levels_table(self.points, self.threshold)}\n"


def level_points(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    hierarchy: Hierarchy,
    thresholds: Iterable[float],
) -> tuple[ThresholdFigures, ...]:
    """Return what each threshold gives, the lowest first.

    Args:
        probabilities: calibrated, float32 [N, classes], N at least 1.
        labels: int64 [N].
        hierarchy: of the classes.
        thresholds: between 0 and 1.
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
    """Return the points as a Markdown table, the row of the model's own threshold in bold."""
    heads = [head for level in KNOWN_LEVELS for head in (TITLES[level], "right" if level == "year" else "right so far")]
    lines = ["| threshold | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for point in points:
        cells = [f"{point.threshold:g}"]
        for level in KNOWN_LEVELS:
            found = point.levels[level]
            cells += [f"{found.coverage:.1%}", "none" if found.right is None else f"{found.right:.1%}"]
        lines.append("| " + " | ".join(f"**{cell}**" if point.threshold == own else cell for cell in cells) + " |")
    return "\n".join(lines)


def measure_levels(dataset: Dataset, model: Path | None = None, threads: int | None = None) -> LevelsReport:
    """Answer every picture of a data set, and count at each level and threshold.

    Args:
        dataset: usable pictures that the model never learned from.
        model: an exported model; None for the bundled one.
        threads: threads within one inference; None for all usable cores.

    Raises:
        InputError: the data set is empty, a picture is unusable, or the model does not know one of its classes.
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


@click.command("levels")
@data_options(argument=True)
@model_option
@click.option("--threads", type=int, help="Threads within one inference.  [default: all usable cores]")
@output_option
def command(data: OpenOptions, model: Path | None, threads: int | None, output: Path | None) -> None:
    """Count coverage and accuracy at each level of a name on DATA, labelled pictures that the model never saw."""
    report = measure_levels(data.open(), model, threads)
    publish(report, report.to_markdown(), output)
