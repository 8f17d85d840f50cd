"""Prototypes and familiarity thresholds, by which a file distinguishes trained cars from others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import dataset_logits, labels_for
from twincar_edge.datasets import Dataset, Split
from twincar_edge.held_out import HeldOut, less_familiar, summarize
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import FamiliarityRecord, FamiliarityThresholds
from twincar_edge.prototypes import Prototypes, class_prototypes
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level
from twincar_edge.runtime.inference.session import ModelSession

logger = logging.getLogger(__name__)

PROTOTYPE_IMAGES = 50  # per class; with more, the mean changes by less than 8 bits can store
_SEED = 0
_DIGITS = 4


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Prototypes and familiarity thresholds of a file, with the similarities of the held-out images.

    Attributes:
        prototypes: the mean embeddings of training images, computed by this file.
        record: the thresholds, for the manifest.
        similarities: float32 [N, classes], of the held-out images.
        held_out: the summary of the held-out images, used to check enrolled classes.
    """

    prototypes: Prototypes
    record: FamiliarityRecord
    similarities: NDArray[np.float32]
    held_out: HeldOut

    def reached(self, similarities: NDArray[np.float32]) -> dict[Level, NDArray[np.bool_]]:
        """Return for each level which images reach its threshold, bool [N], from float32 [N, classes]."""
        familiarity = similarities.max(axis=1).astype(np.float64)  # the type that inference compares in
        return {level: familiarity >= getattr(self.record.thresholds, level) for level in KNOWN_LEVELS}


def learn_familiarity(
    session: ModelSession,
    split: Split,
    classes: ClassMapping,
    embeddings: NDArray[np.float32],
    keep: tuple[float, float, float],
    held_out: NDArray[np.float32] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Familiarity | None:
    """Compute prototypes from training images, and choose thresholds on the held-out ones.

    Args:
        session: the exported file, with an embedding output.
        split: the training images and the held-out ones.
        classes: the names of the outputs.
        embeddings: the held-out images' embeddings, float32 [N, D].
        keep: the shares of held-out images that must reach the threshold for a full name, a model, a make.
        held_out: float32 [N, classes], the images' similarities in a validation model, if this file has learned from
            them; None for this file's own.
        progress: called with (images done, total images).

    Returns:
        None if a class has no training images: without a prototype, all its cars would be rejected as unfamiliar.

    Raises:
        InputError: an image is unusable, or its class is not one of the model's.
        ModelError: inference fails.
    """
    labels = labels_for(split.train, classes) if len(split.train) else np.empty(0, np.int64)
    missing = len(classes) - len(np.unique(labels))
    if missing:
        logger.warning("no prototypes: %d classes have no training images", missing)
        return None
    chosen = _sample_per_class(split.train, labels)
    found = dataset_logits(session.embed, chosen, session.manifest.preprocess, progress=progress)
    prototypes = class_prototypes(found, labels_for(chosen, classes), len(classes))
    similarities = prototypes.similarities(embeddings) if held_out is None else held_out
    if held_out is not None:
        embeddings = less_familiar(embeddings, prototypes, held_out.max(axis=1))
    thresholds = choose_thresholds(similarities.max(axis=1), keep)
    record = FamiliarityRecord(
        thresholds=thresholds,
        keep=dict(zip(KNOWN_LEVELS, keep, strict=True)),
        images=len(embeddings),
        prototype_images=len(chosen),
    )
    return Familiarity(prototypes, record, similarities, summarize(embeddings, prototypes))


def choose_thresholds(familiarity: NDArray[np.float32], keep: tuple[float, float, float]) -> FamiliarityThresholds:
    """Return for each level the highest threshold that keeps its share of images, rounded down to 4 digits.

    Args:
        familiarity: the held-out images' familiarity, float32 [N].
        keep: shares from 0 to 1 for a full name, a model, a make, in ascending order.
    """
    lowest = [float(np.quantile(familiarity, 1 - share, method="lower")) for share in keep]
    year, model, make = (float(np.floor(value * 10**_DIGITS) / 10**_DIGITS) for value in lowest)
    return FamiliarityThresholds(year=year, model=model, make=make)


def _sample_per_class(train: Dataset, labels: NDArray[np.int64]) -> Dataset:
    order = np.random.default_rng(_SEED).permutation(len(train))
    counts = dict.fromkeys(labels.tolist(), 0)
    names = []
    for place in order.tolist():
        counts[label := int(labels[place])] += 1
        if counts[label] <= PROTOTYPE_IMAGES:
            names.append(train.samples[place].name)
    return train.select(sorted(names))
