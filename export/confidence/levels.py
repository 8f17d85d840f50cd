"""How sure a model is, at each level of a name, of pictures that it cannot know."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from twincar_edge.metrics import softmax
from twincar_edge.runtime.inference.answers import Hierarchy, Level
from twincar_edge.runtime.inference.levels import LevelCertainty, certainty_by_level


def masked_certainty(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    temperature: float,
    hierarchy: Hierarchy,
    familiar: Mapping[Level, NDArray[np.bool_]] | None = None,
) -> dict[Level, LevelCertainty]:
    """Return how sure a model is of each image where its own class cannot be the answer.

    The logit of the class is taken out and the others share what it had. No model has to be trained without the class
    for it; but the features did learn the class, so it is an estimate, of the hardest kind of unknown car. Its model or
    make may still be right, where other classes have them.

    Args:
        logits: float32 [N, classes], of 2 classes or more.
        labels: int64 [N], each image's own class.
        temperature: divides the logits.
        hierarchy: of the classes.
        familiar: bool [N] for each level, which images are familiar enough without their own class; None where all are.
    """
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return certainty_by_level(softmax(others, temperature), hierarchy, labels, familiar)


def wrong_probability(levels: Mapping[Level, LevelCertainty]) -> NDArray[np.float64]:
    """Return the highest threshold at which each image still gets a wrong name, float64 [N]; 0 or less for none.

    Above a half names of different levels cannot contradict each other, so a name that is wrong at one level is not
    hidden by one of another.
    """
    wrong = [np.where(level.right, 0.0, level.best) for level in levels.values()]
    return np.asarray(np.max(wrong, axis=0), np.float64)
