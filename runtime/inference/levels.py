"""A model's certainty at each level of a name: full class name, make and model, make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.labels import VehicleName
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Hierarchy, Level, agrees


@dataclass(frozen=True)
class LevelCertainty:
    """The most probable names of images at one level of the hierarchy.

    Attributes:
        best: the probability of each image's most probable name, float64 [N]; -1 if the image is not familiar enough
            for a name of this level.
        right: whether that name is correct, bool [N].
    """

    best: NDArray[np.float64]
    right: NDArray[np.bool_]

    def coverage(self, threshold: float) -> float:
        """Return the share of images, from 0 to 1, whose name reaches the threshold."""
        return float((self.best >= threshold).mean())

    def accuracy(self, threshold: float) -> float | None:
        """Return the share of correct names among those that reach the threshold; None if none does."""
        named = self.best >= threshold
        return float(self.right[named].mean()) if named.any() else None


def certainty_by_level(
    probabilities: NDArray[np.float32],
    hierarchy: Hierarchy,
    labels: NDArray[np.int64] | None = None,
    familiar: Mapping[Level, NDArray[np.bool_]] | None = None,
    cars: Sequence[VehicleName | None] | None = None,
) -> dict[Level, LevelCertainty]:
    """Sum probabilities, float32 [N, classes], by level, as for each answer of a box.

    Args:
        probabilities: the probabilities of each image.
        hierarchy: the hierarchy of the model's classes.
        labels: the class of each image, int64 [N]; None if no full name is correct.
        familiar: for each level, which images are familiar enough for it, bool [N]; None if all are.
        cars: the car in each image if it is not one of the classes, because a coarser name can still be correct; None
            for images without a correct name.
    """
    found = {}
    for level in KNOWN_LEVELS:
        groups = hierarchy.groups(level)
        sums = probabilities.astype(np.float64) if groups is None else groups.sums(probabilities)
        right = np.zeros(len(sums), np.bool_)
        if labels is not None:
            right = sums.argmax(axis=1) == (labels if groups is None else groups.of_class[labels])
        elif cars is not None and groups is not None:
            names = (groups.names[index] for index in sums.argmax(axis=1).tolist())
            right = np.array([car is not None and agrees(name, car) for name, car in zip(names, cars, strict=True)])
        best = sums.max(axis=1)
        found[level] = LevelCertainty(best if familiar is None else np.where(familiar[level], best, -1.0), right)
    return found
