"""A model's scores for images, before thresholds are applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.inference.classifier import Judgement


@dataclass(frozen=True)
class Scores:
    """A model's scores for N images.

    Attributes:
        probabilities: float32 [N, classes].
        familiarity: float32 [N]; None if the model has no prototypes.
        sides_px: the shorter side of each image, int64 [N].
    """

    probabilities: NDArray[np.float32]
    familiarity: NDArray[np.float32] | None
    sides_px: NDArray[np.int64]

    def rows(self) -> Iterator[tuple[NDArray[np.float32], float | None]]:
        """Yield each image's probabilities, float32 [classes], and familiarity."""
        return Judgement(self.probabilities, self.familiarity).rows()

    def select(self, mask: NDArray[np.bool_]) -> Scores:
        """Return the scores of the images in `mask`, bool [N]."""
        familiarity = None if self.familiarity is None else self.familiarity[mask]
        return Scores(self.probabilities[mask], familiarity, self.sides_px[mask])

    def concatenate(self, other: Scores) -> Scores:
        """Return these scores followed by those of `other`."""
        familiarity = None
        if self.familiarity is not None and other.familiarity is not None:
            familiarity = np.concatenate([self.familiarity, other.familiarity])
        return Scores(
            np.concatenate([self.probabilities, other.probabilities]),
            familiarity,
            np.concatenate([self.sides_px, other.sides_px]),
        )
