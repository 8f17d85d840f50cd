"""The Semantic Shift Benchmark for Stanford Cars: train on 98 classes, and separate their cars from 98 other classes.

    python -m twincar_edge.benchmarks.experiments open_set_ssb DATA PROTOCOL --run DIR --set epochs=14 -o ssb.json

PROTOCOL is a JSON file with the labels of the known classes and of the unknown ones, which are easy, medium or hard by
their difference from the known ones. Source: Vaze et al., "Open-Set Recognition: a Good Closed-Set Classifier is All
You Need?", ICLR 2022, arXiv:2110.06207. Uses the held-out images of known classes in DATA, and all images of unknown
classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from twincar_edge.benchmarks.experiments.options import PATH, output_option, publish
from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import data_options
from twincar_edge.dataset_logits import labels_for, prepared_batches
from twincar_edge.datasets import Dataset, OpenOptions, check_integrity, read_split
from twincar_edge.errors import InputError, first_fault
from twincar_edge.labels import ClassMapping
from twincar_edge.machine import Machine, this_machine
from twincar_edge.manifest import DataRecord
from twincar_edge.metrics import auroc, softmax
from twincar_edge.prototypes import class_prototypes
from twincar_edge.records import Record, Share
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.fit import fit
from twincar_edge.training.history import EpochMetrics
from twincar_edge.training.machine import Machine as TrainingMachine
from twincar_edge.training.model import CarClassifier, features, load_model
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.recipe_files import DEFAULT_RECIPE, read_recipe

SCHEMA_VERSION: Literal[1] = 1
_BATCH = 32  # images
Labels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Difficulty = Literal["easy", "medium", "hard"]


class Protocol(Record):
    """The labels, from 0, of the known classes, and of the unknown ones by difficulty."""

    source: str = ""
    known: Labels
    unknown: dict[Difficulty, Labels]


class Scores(Record):
    """AUROC of known images against unknown ones, by the largest probability, the largest logit, and familiarity."""

    classes: int = Field(ge=1)
    images: int = Field(ge=1)
    probability: Share
    max_logit: Share
    familiarity: Share


class SsbReport(Record):
    """The full measurement. `known_images` are the held-out images of known classes, `top1` is their accuracy."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    recipe: dict[str, Any]
    data: DataRecord
    known_classes: int
    known_images: int
    top1: Share
    unknown: dict[Difficulty, Scores]

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        head = (
            f"{self.known_classes} known classes, {self.known_images} held-out images: top-1 {self.top1:.2%}. "
            "AUROC against images of unknown classes:"
        )
        lines = [
            head,
            "",
            "| unknown | classes | images | probability | largest logit | familiarity |",
            "|---" * 6 + "|",
        ]
        lines += [
            f"| {name} | {one.classes} | {one.images} | {one.probability:.3f} | {one.max_logit:.3f} "
            f"| {one.familiarity:.3f} |"
            for name, one in self.unknown.items()
        ]
        return "\n".join(lines) + "\n"


def read_protocol(path: Path, classes: int) -> Protocol:
    """Read a protocol for a data set with a number of classes.

    Raises:
        InputError: the file cannot be read or is invalid, a label occurs twice, or is not in the data set.
    """
    try:
        protocol = Protocol.model_validate(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise InputError(f"cannot read the protocol {path}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path} is not a protocol, at {first_fault(error)[:200]}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    labels = [label for group in (protocol.known, *protocol.unknown.values()) for label in group]
    if len(set(labels)) != len(labels):
        raise InputError(f"{path} lists a class twice: list each class once, as known or with one difficulty")
    if max(labels) >= classes:
        raise InputError(f"{path} lists class {max(labels)}, but the data set has classes 0 to {classes - 1}")
    return protocol


def of_classes(dataset: Dataset, labels: Sequence[int]) -> Dataset:
    """Return the images of some classes, relabeled to 0, 1, … in this order."""
    places = {label: place for place, label in enumerate(labels)}
    classes = ClassMapping(tuple(dataset.classes[label] for label in labels))
    samples = (replace(one, label=places[one.label]) for one in dataset.samples if one.label in places)
    return Dataset(dataset.name, classes, tuple(samples))


def _line(row: EpochMetrics) -> str:
    held_out = "" if row.validation is None else f": top-1 {row.validation.top1:.2%}"
    return f"epoch {row.epoch}{held_out}"


def measure_ssb(
    recipe: Recipe,
    dataset: Dataset,
    protocol: Protocol,
    run: Path,
    machine: TrainingMachine,
    report: Callable[[str], None] | None = None,
) -> SsbReport:
    """Train on the known classes, or resume the training in `run`, and measure the separation of unknown classes.

    Args:
        recipe: the training recipe; its `validation_share` is held out for the measurement.
        dataset: labeled images of all classes.
        protocol: the known and unknown classes.
        run: the run folder.
        machine: the machine resources for training.
        report: called with a line after each epoch.

    Raises:
        InputError: as in `training.fit`.
    """
    known = of_classes(dataset, protocol.known)
    trained = fit(
        recipe, known, run, machine=machine, resume=True,
        on_epoch=None if report is None else lambda row: report(_line(row)),
    )  # fmt: skip
    checkpoint = read_checkpoint(trained.checkpoint)
    model = load_model(checkpoint)
    split = read_split(known, run)
    _, learned = _outputs(model, split.train)
    prototypes = class_prototypes(learned, labels_for(split.train, known.classes), len(known.classes))

    def scores(pictures: Dataset) -> tuple[NDArray[np.float32], tuple[NDArray[np.float64], ...]]:
        logits, embeddings = _outputs(model, pictures)
        found = (softmax(logits).max(axis=1), logits.max(axis=1), prototypes.familiarity(embeddings))
        return logits, tuple(np.asarray(one, np.float64) for one in found)

    logits, of_known = scores(split.validation)
    unknown: dict[Difficulty, Scores] = {}
    for difficulty, labels in protocol.unknown.items():
        pictures, _ = check_integrity(of_classes(dataset, labels))
        _, of_unknown = scores(pictures)
        probability, largest, familiarity = (auroc(one, other) for one, other in zip(of_known, of_unknown, strict=True))
        unknown[difficulty] = Scores(
            classes=len(labels),
            images=len(pictures),
            probability=probability,
            max_logit=largest,
            familiarity=familiarity,
        )
    return SsbReport(
        created=datetime.now(UTC),
        machine=this_machine(),
        recipe=recipe.model_dump(mode="json"),
        data=dataset.record(),
        known_classes=len(known.classes),
        known_images=len(split.validation),
        top1=float((logits.argmax(axis=1) == split.validation.labels).mean()),
        unknown=unknown,
    )


def _outputs(model: CarClassifier, dataset: Dataset) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the logits, float32 [N, classes], and embeddings, float32 [N, D], of all images."""
    logits, embeddings = [], []
    model.eval()
    with torch.inference_mode():
        for (batch_nhwc,) in prepared_batches(dataset, [model.preprocess], _BATCH):
            found, _, pooled = features(model, torch.from_numpy(batch_nhwc))
            logits.append(found.numpy())
            embeddings.append(pooled.float().numpy())
    return np.concatenate(logits), np.concatenate(embeddings)


@click.command("open_set_ssb", cls=Command)
@data_options(argument=True)
@click.argument("protocol", type=PATH)
@click.option("--run", type=PATH, required=True, help="Run folder; an existing run is resumed.")
@click.option("--recipe", default=DEFAULT_RECIPE, show_default=True, help="Model, sizes and augmentation.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=int, default=0, help="CPU threads.  [default: all]")
@output_option
def command(
    data: OpenOptions,
    protocol: Path,
    run: Path,
    recipe: str,
    changes: tuple[str, ...],
    output: Path | None,
    **machine: Any,
) -> None:
    """Train on the known classes of PROTOCOL in DATA, and measure how well its unknown classes are separated."""
    chosen = read_recipe(recipe, changes)
    dataset = data.open()
    report = measure_ssb(
        chosen,
        dataset,
        read_protocol(protocol, len(dataset.classes)),
        run,
        TrainingMachine(**machine),
        lambda line: click.echo(line, err=True),
    )
    publish(report, report.to_markdown(), output)
