"""From images to answers, with the preprocessing, temperature and rejection that the model's manifest carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.metrics import softmax, top_k
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.session import ModelSession

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Guess:
    """One class and its probability."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """One image's answer.

    Attributes:
        label: the model's output index, or None where the answer is "unknown".
        name: the class name, or "unknown" where no class is probable enough.
        probability: that of the best class, whether it was accepted or not.
        top5: the best classes, best first.
    """

    label: int | None
    name: str
    probability: float
    top5: tuple[Guess, ...]


def answer(probabilities: NDArray[np.float32], classes: Sequence[str], reject_below: float) -> Prediction:
    """Turn one row of probabilities, float32 [classes], into a `Prediction`."""
    best = [int(label) for label in top_k(probabilities, 5)]
    top5 = tuple(Guess(classes[label], float(probabilities[label])) for label in best)
    if top5[0].probability < reject_below:
        return Prediction(None, UNKNOWN, top5[0].probability, top5)
    return Prediction(best[0], top5[0].name, top5[0].probability, top5)


class Classifier:
    """Names the car in each image of a batch."""

    def __init__(self, session: ModelSession) -> None:
        """Take an open model."""
        self.session = session
        self.manifest = session.manifest

    def logits(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return logits, float32 [N, classes], for N images, uint8 [H, W, 3] each, of any size."""
        return self.session.run(prepare_batch(images_bgr, self.manifest.preprocess))

    def probabilities(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return calibrated probabilities, float32 [N, classes]."""
        return softmax(self.logits(images_bgr), self.manifest.temperature)

    def predict(self, images_bgr: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return one `Prediction` an image."""
        classes, limit = self.manifest.classes, self.manifest.reject_below
        return [answer(row, classes, limit) for row in self.probabilities(images_bgr)]
