"""From images to answers, with the preprocessing, temperature and rejection that the model's manifest carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twincar_edge.metrics import softmax
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.inference.answers import Hierarchy, Prediction
from twincar_edge.runtime.inference.session import ModelSession


class Classifier:
    """Names the car in each image of a batch."""

    def __init__(self, session: ModelSession) -> None:
        """Take an open model."""
        self.session = session
        self.manifest = session.manifest
        self.hierarchy = Hierarchy(session.manifest.classes)

    def logits(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return logits, float32 [N, classes], for N images, uint8 [H, W, 3] each, of any size."""
        return self.session.run(prepare_batch(images_bgr, self.manifest.preprocess))

    def probabilities(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return calibrated probabilities, float32 [N, classes]."""
        return softmax(self.logits(images_bgr), self.manifest.temperature)

    def predict(self, images_bgr: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return one `Prediction` an image."""
        return [self.answer(row) for row in self.probabilities(images_bgr)]

    def answer(self, probabilities: NDArray[np.float32]) -> Prediction:
        """Turn one row of probabilities, float32 [classes], into a `Prediction` by the model's own threshold."""
        return self.hierarchy.answer(probabilities, self.manifest.reject_below)
