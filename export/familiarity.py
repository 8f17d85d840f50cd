"""What a file needs to tell cars that it was taught from others: prototypes, and the familiarity each level needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import dataset_logits, labels_for
from twincar_edge.datasets import Dataset, Split
from twincar_edge.held_out import HeldOut, summarize
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import FamiliarityRecord, FamiliarityThresholds
from twincar_edge.prototypes import Prototypes, class_prototypes
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level
from twincar_edge.runtime.inference.session import ModelSession

logger = logging.getLogger(__name__)

PROTOTYPE_IMAGES = 50  # of each class: a mean gains nothing more that 8 bits could hold
_SEED = 0
_DIGITS = 4


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What a file needs to judge familiarity, and what it gives on the held-out images.

    Attributes:
        prototypes: from training images, as this file embeds them.
        record: the thresholds, for the manifest.
        similarities: float32 [N, classes], of the held-out images.
        held_out: the summary of the held-out images, by which enrolled classes are checked.
    """

    prototypes: Prototypes
    record: FamiliarityRecord
    similarities: NDArray[np.float32]
    held_out: HeldOut

    def reached(self, similarities: NDArray[np.float32]) -> dict[Level, NDArray[np.bool_]]:
        """Return for each level which images, by their similarities, float32 [N, classes], are familiar enough."""
        familiarity = similarities.max(axis=1).astype(np.float64)  # as the box compares
        return {level: familiarity >= getattr(self.record.thresholds, level) for level in KNOWN_LEVELS}


def learn_familiarity(
    session: ModelSession,
    split: Split,
    classes: ClassMapping,
    embeddings: NDArray[np.float32],
    keep: tuple[float, float, float],
    progress: Callable[[int, int], None] | None = None,
) -> Familiarity | None:
    """Make prototypes of training images, and choose thresholds on the held-out ones.

    Args:
        session: the exported file, with an embedding output.
        split: the training images and the held-out ones.
        classes: the names of the outputs.
        embeddings: of the held-out images, float32 [N, D].
        keep: the share of held-out images that stay familiar enough for a class name in full, a model, a make.
        progress: called with (images done, images in all).

    Returns:
        None where a class has no training image: it would have no prototype, and all its cars would be strangers.

    Raises:
        InputError: an image is unusable, or of a class that the model does not know.
        ModelError: the model fails.
    """
    labels = labels_for(split.train, classes) if len(split.train) else np.empty(0, np.int64)
    missing = len(classes) - len(np.unique(labels))
    if missing:
        logger.warning("no prototypes: %d classes have no training image", missing)
        return None
    chosen = _some_of_each(split.train, labels)
    found = dataset_logits(session.embed, chosen, session.manifest.preprocess, progress=progress)
    prototypes = class_prototypes(found, labels_for(chosen, classes), len(classes))
    similarities = prototypes.similarities(embeddings)
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
        familiarity: of held-out images, float32 [N].
        keep: shares from 0 to 1, for a class name in full, a model, a make; none smaller than the one before.
    """
    lowest = [float(np.quantile(familiarity, 1 - share, method="lower")) for share in keep]
    year, model, make = (float(np.floor(value * 10**_DIGITS) / 10**_DIGITS) for value in lowest)
    return FamiliarityThresholds(year=year, model=model, make=make)


def _some_of_each(train: Dataset, labels: NDArray[np.int64]) -> Dataset:
    order = np.random.default_rng(_SEED).permutation(len(train))
    counts = dict.fromkeys(labels.tolist(), 0)
    names = []
    for place in order.tolist():
        counts[label := int(labels[place])] += 1
        if counts[label] <= PROTOTYPE_IMAGES:
            names.append(train.samples[place].name)
    return train.select(sorted(names))
