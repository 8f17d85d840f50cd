"""The certainty of answers to images of unknown cars, at each level of a name."""

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
    """Return the certainty for each image with the logit of its own class masked.

    This estimates the certainty for the hardest kind of unknown car without training another model; it is only an
    estimate, because the features were trained on the class. The model or make of the answer may still be right, if
    other classes share it.

    Args:
        logits: float32 [N, classes], with 2 or more classes.
        labels: int64 [N], each image's own class.
        temperature: divides the logits.
        hierarchy: the hierarchy of the classes.
        familiar: bool [N] for each level, whether images reach its familiarity threshold without their own class; None
            if all do.
    """
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return certainty_by_level(softmax(others, temperature), hierarchy, labels, familiar)


def wrong_probability(levels: Mapping[Level, LevelCertainty]) -> NDArray[np.float64]:
    """Return the highest threshold at which each image still gets a wrong name, float64 [N]; 0 or less if never.

    Above 0.5, names of different levels cannot contradict each other, so a right name cannot hide a wrong one.
    """
    wrong = [np.where(level.right, 0.0, level.best) for level in levels.values()]
    return np.asarray(np.max(wrong, axis=0), np.float64)
