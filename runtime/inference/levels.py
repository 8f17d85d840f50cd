"""How sure a model is at each level of a name: the class in full, model and make together, the make alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.labels import VehicleName
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Hierarchy, Level, agrees


@dataclass(frozen=True)
class LevelCertainty:
    """What images are called at one level of the hierarchy.

    Attributes:
        best: the probability of each image's most probable name, float64 [N]; -1 where the image is not familiar enough
            for a name of this level, whatever its probability.
        right: whether it is the true one, bool [N].
    """

    best: NDArray[np.float64]
    right: NDArray[np.bool_]

    def coverage(self, threshold: float) -> float:
        """Return the share of images, from 0 to 1, whose name is sure enough to be told."""
        return float((self.best >= threshold).mean())

    def accuracy(self, threshold: float) -> float | None:
        """Return the share of right names among those that reach the threshold; None where none does."""
        named = self.best >= threshold
        return float(self.right[named].mean()) if named.any() else None


def certainty_by_level(
    probabilities: NDArray[np.float32],
    hierarchy: Hierarchy,
    labels: NDArray[np.int64] | None = None,
    familiar: Mapping[Level, NDArray[np.bool_]] | None = None,
    cars: Sequence[VehicleName | None] | None = None,
) -> dict[Level, LevelCertainty]:
    """Sum probabilities, float32 [N, classes], up the hierarchy, as the box does for each answer.

    Args:
        probabilities: of each image.
        hierarchy: of the model's classes.
        labels: int64 [N], each image's own class; None where no name is right.
        familiar: bool [N] for each level, which images are familiar enough for it; None where all are.
        cars: the car in each image if it is not one of the classes, so that a coarse name can be right; None for
            an image of which no name is right.
    """
    found = {}
    for level in KNOWN_LEVELS:
        groups = hierarchy.groups(level)
        sums = probabilities.astype(np.float64) if groups is None else groups.sums(probabilities)
        right = np.zeros(len(sums), np.bool_)
        if labels is not None:
            right = sums.argmax(axis=1) == (labels if groups is None else groups.of_class[labels])
        elif cars is not None and groups is not None:
            names = (groups.names[place] for place in sums.argmax(axis=1).tolist())
            right = np.array([car is not None and agrees(name, car) for name, car in zip(names, cars, strict=True)])
        best = sums.max(axis=1)
        found[level] = LevelCertainty(best if familiar is None else np.where(familiar[level], best, -1.0), right)
    return found
