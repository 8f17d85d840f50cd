"""What the model says of one vehicle's crops together.

The answers for the crops combine as the weighted mean of their log-probabilities, renormalized: their weighted
geometric mean. A crop's weight is its area times its sharpness, and a tenth of that where the frame's border cuts it.
The mean, not the sum: the crops of one vehicle are alike, not independent, and a sum over a hundred of them would be
certain of anything. Familiarity combines as the weighted mean, with the same weights. The model's temperature and
thresholds then apply as they do to a single image.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.metrics import softmax
from twincar_edge.runtime.events import MOST_DECIDING_FRAMES
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box, touches_border
from twincar_edge.runtime.sources import Frame

_LEAST_PROBABILITY = 1e-12  # no single crop can rule out a class for good by rounding to zero
_LEAST_SHARE = 1e-3  # a crop without any structure still counts, where there is no other
_CUT_WEIGHT = 0.1
_HALF_SHARP = 1500.0  # of `sharpness`: typical of a good picture; out of focus, it is about a tenth of that
_LOOK_PX = 112


@dataclass(frozen=True, eq=False)
class Look:
    """A crop of a vehicle, a copy that does not keep its frame in memory.

    Attributes:
        frame: the frame's index.
        box_xyxy: the vehicle's box in the frame, in pixels.
        picture_bgr: the pixels in the box, uint8 [h, w, 3].
        weight: how much the crop counts relative to others of the same vehicle, above 0.
    """

    frame: int
    box_xyxy: Box
    picture_bgr: NDArray[np.uint8]
    weight: float


def look_at(frame: Frame, box: Box, score: float) -> Look:
    """Crop a vehicle from a frame.

    Args:
        frame: the frame.
        box: the vehicle's box in it, in pixels.
        score: the locator's confidence, between 0 and 1.
    """
    left, top, right, bottom = box
    picture_bgr = frame.image_bgr[top:bottom, left:right].copy()
    rows, columns = frame.image_bgr.shape[:2]
    weight = crop_weight(picture_bgr, max(score, _LEAST_SHARE), touches_border(box, (columns, rows)))
    return Look(frame.index, box, picture_bgr, weight)


class Evidence:
    """What the model says of one vehicle's crops together; memory does not grow with their number.

    All but `crops` and `add` need one crop at least.

    Attributes:
        crops: how many the answer rests on.
    """

    def __init__(self) -> None:
        """Start without crops."""
        self.crops = 0
        self._best: Look | None = None
        self._heaviest: list[tuple[float, int]] = []  # a heap of weights and frames
        self._classifier: Classifier | None = None
        self._weight = 0.0
        self._log_probabilities: NDArray[np.float64] | float = 0.0
        self._familiarity: float | None = None  # times the weight

    def add(
        self,
        look: Look,
        probabilities: NDArray[np.float32],
        classifier: Classifier,
        familiarity: float | None = None,
    ) -> None:
        """Add a classified crop.

        Answers of two models do not mix: the first answer of another model file discards those before it.

        Args:
            look: the crop.
            probabilities: the model's answer, float32 [classes].
            classifier: the model that gave it.
            familiarity: how familiar the crop is to that model; None where the model cannot say.
        """
        if self._classifier is not None and self._classifier.session.sha256 != classifier.session.sha256:
            self.crops, self._weight, self._log_probabilities, self._familiarity = 0, 0.0, 0.0, None
            self._heaviest = []
        self._classifier = classifier
        logs = np.log(np.maximum(probabilities.astype(np.float64), _LEAST_PROBABILITY))
        self._log_probabilities = self._log_probabilities + look.weight * logs
        if familiarity is not None:
            self._familiarity = (self._familiarity or 0.0) + look.weight * familiarity
        self._weight += look.weight
        self.crops += 1
        heapq.heappush(self._heaviest, (look.weight, look.frame))
        if len(self._heaviest) > MOST_DECIDING_FRAMES:
            heapq.heappop(self._heaviest)
        if self._best is None or look.weight > self._best.weight:
            self._best = look

    @property
    def best(self) -> Look:
        """Return the crop with the largest weight."""
        assert self._best is not None, "no crop was added"
        return self._best

    @property
    def deciding_frames(self) -> tuple[int, ...]:
        """Return the frames whose crops weigh most in the answer, at most 16, the heaviest first."""
        return tuple(frame for _, frame in sorted(self._heaviest, reverse=True))

    @property
    def classifier(self) -> Classifier:
        """Return the model that classified the crops."""
        assert self._classifier is not None, "no crop was added"
        return self._classifier

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the answer of all crops together, float32 [classes]."""
        return softmax(np.asarray(self._log_probabilities / self._weight, np.float32))

    @property
    def familiarity(self) -> float | None:
        """Return how familiar all crops together are; None where the model cannot say."""
        return None if self._familiarity is None else self._familiarity / self._weight

    def answer(self) -> Prediction:
        """Return the answer of all crops together, as deep as the model's thresholds allow."""
        return self.classifier.answer(self.probabilities, self.familiarity)


def crop_weight(crop_bgr: NDArray[np.uint8], score: float, cut: bool) -> float:
    """Return a crop's weight relative to others of the same vehicle, above 0: area x score x sharpness, less if cut."""
    rows, columns = crop_bgr.shape[:2]
    sharp = sharpness(crop_bgr)
    clear = max(sharp / (sharp + _HALF_SHARP), _LEAST_SHARE)
    return float(max(1, rows * columns) * score * clear * (_CUT_WEIGHT if cut else 1.0))


def sharpness(crop_bgr: NDArray[np.uint8]) -> float:
    """Return how much fine structure a crop has: the variance of its Laplacian.

    Computed on a grey copy of a fixed size, so that neither the result nor the time depends on the crop's size.
    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.

    Args:
        crop_bgr: uint8 [H, W, 3], not empty.
    """
    near = cv2.resize(crop_bgr, (2 * _LOOK_PX, 2 * _LOOK_PX), interpolation=cv2.INTER_NEAREST)
    grey = cv2.resize(cv2.cvtColor(near, cv2.COLOR_BGR2GRAY), (_LOOK_PX, _LOOK_PX), interpolation=cv2.INTER_AREA)
    _, deviations = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviations[0, 0] ** 2)
