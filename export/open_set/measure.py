"""Measures a model's answers to known cars, other cars and things other than cars, with its deployed thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import labels_for
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError
from twincar_edge.export.open_set.conditions import CONDITIONS, changed, count_condition, sample_known
from twincar_edge.export.open_set.counts import Groups, count_known, separation
from twincar_edge.export.open_set.pictures import UnknownPictures, shrunken
from twincar_edge.export.open_set.report import SIZES, ConditionFigures, OpenSetReport, SizeFigures
from twincar_edge.export.open_set.scores import Scores
from twincar_edge.labels import ClassMapping, VehicleName
from twincar_edge.manifest import FamiliarityThresholds
from twincar_edge.metrics import softmax
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.progress import Progress
from twincar_edge.runtime.inference.answers import Hierarchy, Level, Prediction
from twincar_edge.runtime.inference.session import ModelSession

Judge = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32] | None]]
"""A model: `batch_nhwc`, uint8 [N, H, W, 3], to logits, float32 [N, classes], and familiarity, float32 [N], or None."""

SMALLEST_SIZE, LARGEST_SIZE = 8, 4096  # pixels
_BATCH = 32  # images


@dataclass(frozen=True)
class Subject:
    """A model with its thresholds.

    Attributes:
        name: its name in the report.
        judge: the model.
        classes: the names of its outputs.
        preprocess: its preprocessing.
        temperature: divides the logits.
        reject_below: the lowest probability of a name.
        thresholds: the lowest familiarity for each level; None if only the probability decides.
        minimum_px: the smallest shorter side of an image for a full name.
    """

    name: str
    judge: Judge
    classes: ClassMapping
    preprocess: Preprocess
    temperature: float = 1.0
    reject_below: float = 0.0
    thresholds: FamiliarityThresholds | None = None
    minimum_px: int = 0

    @classmethod
    def of_session(cls, session: ModelSession) -> Subject:
        """Return the model of an exported file, with its manifest's thresholds."""
        manifest = session.manifest
        return cls(
            session.model.name,
            session.judge,
            ClassMapping(session.classes),
            manifest.preprocess,
            manifest.temperature,
            manifest.reject_below,
            None if manifest.familiarity is None else manifest.familiarity.thresholds,
            0 if manifest.crop_sizes is None else manifest.crop_sizes.minimum_px,
        )

    def answers(self, scores: Scores, hierarchy: Hierarchy) -> list[Prediction]:
        """Return the answer to each image, as inference gives it."""

        def coarser(level: Level, _: VehicleName) -> bool:
            return level != "year"

        return [
            hierarchy.answer(
                row, self.reject_below, familiar, self.thresholds, coarser if side < self.minimum_px else None
            )
            for (row, familiar), side in zip(scores.rows(), scores.sides_px.tolist(), strict=True)
        ]

    def scores(self, dataset: Dataset, progress: Progress | None = None) -> Scores:
        """Return the model's scores for all images.

        Raises:
            InputError: the data set is empty, or an image is unusable.
            ModelError: inference fails.
        """
        probabilities, familiarity, sides = [], [], []
        for start in range(0, len(dataset), _BATCH):
            images = [sample.read() for sample in dataset.samples[start : start + _BATCH]]
            logits, familiar = self.judge(prepare_batch(images, self.preprocess))
            probabilities.append(softmax(logits, self.temperature))
            familiarity.append(familiar)
            sides += [min(image.shape[:2]) for image in images]
            if progress is not None:
                progress(start + len(images), len(dataset))
        if not sides:
            raise InputError(f"the data set {dataset.name} is empty")
        known = [part for part in familiarity if part is not None]
        return Scores(
            np.concatenate(probabilities), np.concatenate(known) if known else None, np.array(sides, np.int64)
        )


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes, in pixels, without duplicates in descending order.

    Raises:
        InputError: there are no sizes, or one is not from `SMALLEST_SIZE` to `LARGEST_SIZE`.
    """
    ordered = tuple(sorted(set(sizes), reverse=True))
    if not ordered or not SMALLEST_SIZE <= ordered[-1] <= ordered[0] <= LARGEST_SIZE:
        raise InputError(f"sizes must be {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, found {list(ordered) or 'none'}")
    return ordered


def measure_open_set(
    subject: Subject,
    known: Dataset | None,
    unknown: Sequence[UnknownPictures],
    sizes: Sequence[int] = SIZES,
    progress: Progress | None = None,
) -> OpenSetReport:
    """Classify known cars and unknown images at each size, and count the answers.

    A sample of the known cars is also classified under simulated conditions: in part, at night, in rain, and through a
    covered lens.

    Args:
        subject: the model.
        known: labeled cars of its classes that were not used for training; None omits everything that needs them.
        unknown: sets of unknown images; may be empty.
        sizes: sizes to reduce the shorter side to, in pixels.
        progress: called with (images done, total images).

    Raises:
        InputError: a set is empty, an image is unusable, a size is out of range, or the model lacks a class of the
            known cars.
        ModelError: inference fails.
    """
    ordered = check_sizes(sizes)
    labels = None if known is None else labels_for(known, subject.classes)
    hierarchy = Hierarchy(subject.classes.names)
    known_sample = None if known is None else sample_known(known)
    total = len(ordered) * ((0 if known is None else len(known)) + sum(len(one.dataset) for one in unknown))
    total += len(CONDITIONS) * (0 if known_sample is None else len(known_sample))
    done = 0

    def scores(dataset: Dataset) -> Scores:
        nonlocal done
        before = done

        def report(within: int, _: int) -> None:
            if progress is not None:
                progress(before + within, total)

        done += len(dataset)
        return subject.scores(dataset, report)

    figures = []
    for size in ordered:
        known_scores = None if known is None else scores(shrunken(known, size))
        unknown_scores = [scores(shrunken(one.dataset, size)) for one in unknown]
        groups = Groups()
        for one, found in zip(unknown, unknown_scores, strict=True):
            groups.add(one, subject.answers(found, hierarchy), {parts.make for parts in hierarchy.vehicles})
        separated = [
            None if known_scores is None else separation(known_scores, unknown, unknown_scores, cars=cars)
            for cars in (True, False)
        ]
        known_figures = None
        if known_scores is not None and labels is not None:
            known_figures = count_known(subject.answers(known_scores, hierarchy), labels, hierarchy)
        figures.append(
            SizeFigures(
                size_px=size, known=known_figures, groups=groups.figures(), cars=separated[0], no_car=separated[1]
            )
        )
    conditions: list[ConditionFigures] = []
    if known_sample is not None:
        sample_labels = labels_for(known_sample, subject.classes)
        for condition in CONDITIONS:
            answers = subject.answers(scores(changed(known_sample, condition, ordered[0])), hierarchy)
            conditions.append(count_condition(condition, answers, sample_labels, hierarchy))
    return OpenSetReport(
        name=subject.name,
        temperature=subject.temperature,
        reject_below=subject.reject_below,
        thresholds=subject.thresholds,
        sizes=tuple(figures),
        conditions=tuple(conditions),
        warnings=tuple(one.remark for one in unknown if one.remark),
    )
