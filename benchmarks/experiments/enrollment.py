"""Measures enrolled classes: their accuracy, and their effect on answers to other images.

    python -m twincar_edge.benchmarks.experiments enrollment STRANGERS DATA [--images DIR] -o enrollment.json

STRANGERS is a folder with cars.csv (filename, make, model; optional kind, the source of an image) and images/, of cars
that the model was not trained on. Each trial enrolls a random selection of its classes. The remaining images of these,
the images of its other classes, and DATA, labeled images of trained classes, are then classified with and without the
enrolled classes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
import numpy as np
from numpy.typing import ArrayLike, NDArray

from twincar_edge.benchmarks.experiments.options import PATH, model_option, output_option, publish
from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import data_options
from twincar_edge.dataset_logits import labels_for
from twincar_edge.datasets import Dataset, OpenOptions
from twincar_edge.enrolled import REACH, Enrolled, join, learn_class
from twincar_edge.errors import InputError, ModelError
from twincar_edge.images import read_image
from twincar_edge.machine import Machine, this_machine
from twincar_edge.metrics import softmax
from twincar_edge.preprocess import prepare
from twincar_edge.records import Record, Share
from twincar_edge.runtime.inference.answers import Hierarchy, Prediction
from twincar_edge.runtime.inference.session import ModelSession, open_session

SCHEMA_VERSION: Literal[1] = 1
SHOTS = (1, 3, 5, 10)
REACHES = (REACH, 1.15, 4 / 3, 1.5)
NEW_CLASSES, DRAWS, SEED = 12, 10, 0
BATCH = 32
MIN_REMAINING = 2  # images per class, in addition to the largest number of shots


class KindFigures(Record):
    """Results for the remaining images of enrolled classes, of one kind: their number, named share, and accuracy."""

    pictures: int
    named: Share
    right: Share | None


class EnrollmentFigures(Record):
    """Results of enrolling `shots` images per class with a reach, over all draws. Shares are from 0 to 1.

    Of the remaining images of enrolled classes, `named` get a full name, with the accuracy `right`. A wrong claim is
    any name that is not true of the car, even a make. Images from one parking lot share place and view, photos from
    the web do not, so `kinds` separates them.
    """

    shots: int
    reach: float
    named: Share
    right: Share | None
    wrong_claims_before: Share
    wrong_claims: Share
    top1_before: Share
    top1: Share
    kinds: dict[str, KindFigures]


class EnrollmentReport(Record):
    """The full measurement."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    model: str
    model_sha256: str
    strangers: int
    known: int
    new_classes: int
    draws: int
    points: tuple[EnrollmentFigures, ...]

    def to_markdown(self) -> str:
        """Return the report as a Markdown table."""
        lines = [
            f"{self.model}, {self.new_classes} random new classes, {self.draws} draws; "
            f"{self.strangers} images of untrained classes, {self.known} of trained classes",
            "",
            "| reach | images per class | named | right | wrong claims, other cars | top-1, trained classes |"
            + "".join(f" {kind}: named | right |" for kind in self.points[0].kinds),
            "|---|---|---|---|---|---|" + "---|---|" * len(self.points[0].kinds),
        ]
        for one in self.points:
            kinds = "".join(f" {kind.named:.1%} | {_share(kind.right)} |" for kind in one.kinds.values())
            lines.append(
                f"| {one.reach:.2f} | {one.shots} | {one.named:.1%} | {_share(one.right)} | "
                f"{one.wrong_claims_before:.1%} → {one.wrong_claims:.1%} | {one.top1_before:.2%} → {one.top1:.2%} |"
                + kinds
            )
        return "\n".join(lines)


def _share(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


@dataclass(frozen=True, eq=False)
class _Pictures:
    """The model's outputs for images: logits, float32 [N, classes], and embeddings, float32 [N, D]."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    def select(self, places: NDArray[np.int64]) -> _Pictures:
        return _Pictures(self.logits[places], self.embeddings[places])


def measure_enrollment(strangers: Path, dataset: Dataset, model: Path | None = None) -> EnrollmentReport:
    """Enroll random classes repeatedly, and measure the answers.

    Raises:
        InputError: an image is unusable, or too few classes have enough images.
        ModelError: the model cannot be used, or has no prototypes.
    """
    session = open_session(model or default_model(), spinning=True)
    if session.prototypes is None:
        raise ModelError(f"{session.model} has no embedding output with prototypes: export it again")
    names, kinds, paths = _read_strangers(strangers)
    other = _run(session, (read_image(path) for path in paths))
    known = _run(session, (sample.read() for sample in dataset.samples))
    labels = labels_for(dataset, session.manifest.class_mapping)
    enough = [name for name in dict.fromkeys(names) if names.count(name) >= max(SHOTS) + MIN_REMAINING]
    if len(enough) <= NEW_CLASSES:
        raise InputError(
            f"{strangers} has only {len(enough)} classes of {max(SHOTS) + MIN_REMAINING} images or more: "
            f"at least {NEW_CLASSES + 1} are needed"
        )
    trial = _Trial(session, np.array(names), np.array(kinds), other, known, labels)
    points = [trial.figures(enough, shots, reach) for reach in REACHES for shots in SHOTS]
    return EnrollmentReport(
        created=datetime.now(UTC),
        machine=this_machine(),
        model=session.manifest.name,
        model_sha256=session.sha256,
        strangers=len(names),
        known=len(labels),
        new_classes=NEW_CLASSES,
        draws=DRAWS,
        points=tuple(points),
    )


@dataclass(frozen=True, eq=False)
class _Trial:
    session: ModelSession
    names: NDArray[np.str_]
    kinds: NDArray[np.str_]
    strangers: _Pictures
    known: _Pictures
    labels: NDArray[np.int64]

    def figures(self, enough: list[str], shots: int, reach: float) -> EnrollmentFigures:
        rng = np.random.default_rng(SEED)  # the same classes and images for all rows
        before = [
            wrong(answer, name) for answer, name in zip(self.answers(self.strangers, None), self.names, strict=True)
        ]
        wrong_before = np.array(before)
        named, right, kinds, wrongs, wrongs_before, top1 = [], [], [], [], [], []
        for _ in range(DRAWS):
            new = sorted(rng.choice(len(enough), NEW_CLASSES, replace=False).tolist())
            order = rng.permutation(len(self.names))
            shown = {enough[place]: [one for one in order if self.names[one] == enough[place]][:shots] for place in new}
            enrolled = self.enroll(shown, reach)
            used = {one for places in shown.values() for one in places}
            left = np.array([one for one in order if self.names[one] in shown and one not in used])
            others = np.array([one for one in order if self.names[one] not in shown])
            kinds += self.kinds[left].tolist()
            for answer, name in zip(self.answers(self.strangers.select(left), enrolled), self.names[left], strict=True):
                named.append(answer.label is not None)
                right.append(named_right(answer, name))
            answers = self.answers(self.strangers.select(others), enrolled)
            wrongs += [wrong(answer, name) for answer, name in zip(answers, self.names[others], strict=True)]
            wrongs_before += wrong_before[others].tolist()
            top1 += (self.extended(self.known, enrolled)[0].argmax(axis=1) == self.labels).tolist()
        return EnrollmentFigures(
            shots=shots,
            reach=reach,
            named=float(np.mean(named)),
            right=_right_of(right, named),
            kinds=_by_kind(np.array(kinds), np.array(named), np.array(right)),
            wrong_claims_before=float(np.mean(wrongs_before)),
            wrong_claims=float(np.mean(wrongs)),
            top1_before=float((self.known.logits.argmax(axis=1) == self.labels).mean()),
            top1=float(np.mean(top1)),
        )

    def enroll(self, shown: dict[str, list[int]], reach: float) -> Enrolled:
        assert self.session.prototypes is not None
        parts = [
            learn_class(
                name,
                self.strangers.embeddings[places],
                self.session.prototypes,
                enrolled_at=datetime.now(UTC),
                source_sha256=self.session.sha256,
                reach=reach,
            )
            for name, places in shown.items()
        ]
        enrolled = join(parts)
        assert enrolled is not None
        return enrolled

    def extended(
        self, pictures: _Pictures, enrolled: Enrolled | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and familiarity as `ModelSession.judge` would with these enrolled classes."""
        manifest = self.session.manifest
        assert self.session.prototypes is not None and manifest.familiarity is not None
        familiarity = self.session.prototypes.familiarity(pictures.embeddings)
        if enrolled is None:
            return pictures.logits, familiarity
        leads = enrolled.leads(pictures.embeddings, familiarity)
        year = manifest.familiarity.thresholds.year
        return enrolled.extend(pictures.logits, familiarity, leads, manifest.temperature, year)

    def answers(self, pictures: _Pictures, enrolled: Enrolled | None) -> list[Prediction]:
        manifest = self.session.manifest
        assert manifest.familiarity is not None
        hierarchy = Hierarchy(manifest.classes + (() if enrolled is None else enrolled.names))
        logits, familiarity = self.extended(pictures, enrolled)
        return [
            hierarchy.answer(row, manifest.reject_below, known, manifest.familiarity.thresholds)
            for row, known in zip(softmax(logits, manifest.temperature), familiarity.tolist(), strict=True)
        ]


def _right_of(right: ArrayLike, named: ArrayLike) -> float | None:
    return float(np.sum(right) / np.sum(named)) if np.any(named) else None


def _by_kind(kinds: NDArray[np.str_], named: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, KindFigures]:
    found = {}
    for kind in sorted(set(kinds.tolist())):
        of_kind = kinds == kind
        found[kind] = KindFigures(
            pictures=int(of_kind.sum()),
            named=float(named[of_kind].mean()),
            right=_right_of(right[of_kind], named[of_kind]),
        )
    return found


def named_right(answer: Prediction, name: str) -> bool:
    """Return whether an answer is a class in full, and the right one; its make and model alone are not."""
    return answer.label is not None and answer.name == name


def wrong(answer: Prediction, name: str) -> bool:
    """Return whether an answer to a car of an untrained class is wrong."""
    return answer.level != "unknown" and (answer.level != "make" or not name.startswith(f"{answer.make} "))


def _read_strangers(folder: Path) -> tuple[list[str], list[str], list[Path]]:
    """Return the name of the car, the kind and the path of each image."""
    table = folder / "cars.csv"
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {table}: {error}") from error
    if not rows or not {"filename", "make", "model"} <= rows[0].keys():
        raise InputError(f"{table} needs the columns filename, make and model")
    names = [f"{row['make']} {row['model']}" for row in rows]
    return names, [row.get("kind") or "any" for row in rows], [folder / "images" / row["filename"] for row in rows]


def _run(session: ModelSession, images_bgr: Iterable[NDArray[np.uint8]]) -> _Pictures:
    prepared = [prepare(image, session.manifest.preprocess) for image in images_bgr]
    logits, embeddings = [], []
    for start in range(0, len(prepared), BATCH):
        some, others = session.outputs(np.stack(prepared[start : start + BATCH]))
        assert others is not None
        logits.append(some)
        embeddings.append(others)
    return _Pictures(np.concatenate(logits), np.concatenate(embeddings))


@click.command("enrollment", cls=Command)
@click.argument("strangers", type=PATH)
@data_options(argument=True)
@model_option
@output_option
def command(strangers: Path, data: OpenOptions, model: Path | None, output: Path | None) -> None:
    """Enroll cars of STRANGERS; classify the others, and DATA, labeled images of trained classes."""
    report = measure_enrollment(strangers, data.open(), model)
    publish(report, report.to_markdown(), output)
