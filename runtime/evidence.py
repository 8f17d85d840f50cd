"""What is known of one vehicle so far: where and when it was seen, and what the model said of its crops.

What the crops say is put together as the weighted mean of their log-probabilities, renormalized: the geometric mean of
what each crop said. A crop counts by its size, by how sharp it is, and for a tenth where the frame's border cuts it.
The mean, not the sum: crops of one vehicle are alike, and a hundred of them are not a hundred independent witnesses, so
a sum would be certain of anything. The model's temperature and threshold then apply as they do to one image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.metrics import softmax
from twincar_edge.runtime.events import Direction
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import AnyBox, Box, centre, diagonal, touches_border
from twincar_edge.runtime.sources import Frame

_LEAST_PROBABILITY = 1e-12  # a class that one crop rules out must not be ruled out for ever by rounding to zero
_LEAST_SHARE = 1e-3  # a crop without any structure still counts, where there is no other
_CUT_WEIGHT = 0.1
_HALF_SHARP = 1500.0  # of `sharpness`: a good picture has about as much, one out of focus a tenth
_LOOK_PX = 112
_STANDS = 0.25  # of a box's diagonal: less than that is no travel


@dataclass(frozen=True, eq=False)
class Look:
    """One picture of a vehicle: a crop of a frame, which does not keep the frame alive.

    Attributes:
        frame: the frame's index.
        box_xyxy: where the vehicle is in it, in pixels.
        picture_bgr: what is in the box, uint8 [h, w, 3].
        weight: how much it counts beside others of the same vehicle, above 0.
    """

    frame: int
    box_xyxy: Box
    picture_bgr: NDArray[np.uint8]
    weight: float


def look_at(frame: Frame, box: Box, score: float) -> Look:
    """Cut a vehicle out of a frame.

    Args:
        frame: the frame.
        box: where the vehicle is in it, in pixels.
        score: how surely there is one, between 0 and 1; the locator's.
    """
    left, top, right, bottom = box
    picture_bgr = frame.image_bgr[top:bottom, left:right].copy()
    rows, columns = frame.image_bgr.shape[:2]
    weight = crop_weight(picture_bgr, max(score, _LEAST_SHARE), touches_border(box, (columns, rows)))
    return Look(frame.index, box, picture_bgr, weight)


class Evidence:
    """One vehicle's visit while it lasts; memory does not grow with its crops.

    One thread may call `see` while another one adds crops.

    Attributes:
        id: of the visit.
        started_at: time of day when it was first seen.
        image: the frame's name, for single images.
        zone: where the vehicle is, for whoever knows zones.
        crops: how many the answer rests on.
        best_box: of the crop that counts most; `best_frame` is that frame's index, `best_crop` the picture.
        told: the answer that was last published, or None.
        against: how many crops in a row have led to another answer since.
        classifier: the model that the answer comes from; None before the first crop.
    """

    def __init__(
        self, frame: Frame, box: Box, started_at: datetime, id: str, classifier_now: Callable[[], Classifier]
    ) -> None:
        """Begin with the frame in which the vehicle is first seen, and where.

        Args:
            frame: the frame.
            box: where in it, in pixels.
            started_at: the time of day, with a time zone.
            id: the visit's.
            classifier_now: the model that crops which are added now were seen by.
        """
        self.id = id
        self.started_at = started_at
        self.image = frame.name
        self.zone: str | None = None
        self.crops = 0
        self.best_box = box
        self.best_frame = frame.index
        self.best_crop: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
        self.told: Prediction | None = None
        self.against = 0
        self.classifier: Classifier | None = None
        self._classifier_now = classifier_now
        self._first = self._last = (frame.index, frame.time_s, box)  # replaced whole, so that no thread sees a half
        self._weight = 0.0
        self._best_weight = 0.0
        self._log_probabilities: NDArray[np.float64] | float = 0.0

    def see(self, frame: Frame, box: Box) -> None:
        """Note that the vehicle is in this frame too, and where."""
        self._last = (frame.index, frame.time_s, box)

    def add(self, look: Look, probabilities: NDArray[np.float32]) -> None:
        """Take the answer for one crop, float32 [classes].

        Where another model gave it than gave those before, these are forgotten: two models' answers do not mix.
        """
        now = self._classifier_now()
        if self.classifier is not None and self.classifier.session.sha256 != now.session.sha256:
            self.crops, self._weight, self._log_probabilities = 0, 0.0, 0.0
        self.classifier = now
        logs = np.log(np.maximum(probabilities.astype(np.float64), _LEAST_PROBABILITY))
        self._log_probabilities = self._log_probabilities + look.weight * logs
        self._weight += look.weight
        self.crops += 1
        if look.weight > self._best_weight:
            self._best_weight, self.best_crop = look.weight, look.picture_bgr
            self.best_box, self.best_frame = look.box_xyxy, look.frame

    @property
    def started(self) -> bool:
        """Return whether an answer was published already."""
        return self.told is not None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Return what the crops say together, float32 [classes]; there is one crop at least."""
        return softmax(np.asarray(self._log_probabilities / self._weight, np.float32))

    @property
    def frames(self) -> tuple[int, int]:
        """Return the indices of the first and the last frame in which the vehicle was seen."""
        return self._first[0], self._last[0]

    @property
    def times_s(self) -> tuple[float, float]:
        """Return these frames' own times, in seconds."""
        return self._first[1], self._last[1]

    @property
    def direction(self) -> Direction:
        """Return where the vehicle went, by the middle of its first and last box."""
        return travel_direction(self._first[2], self._last[2])


def crop_weight(crop_bgr: NDArray[np.uint8], score: float, cut: bool) -> float:
    """Return how much a crop counts beside others of the same vehicle, above 0: size by sharpness by completeness."""
    rows, columns = crop_bgr.shape[:2]
    sharp = sharpness(crop_bgr)
    clear = max(sharp / (sharp + _HALF_SHARP), _LEAST_SHARE)
    return float(max(1, rows * columns) * score * clear * (_CUT_WEIGHT if cut else 1.0))


def sharpness(crop_bgr: NDArray[np.uint8]) -> float:
    """Return how much fine structure the model can see in a crop: the variance of its Laplacian.

    Taken of a small grey copy, always of one size: size does not count as sharpness, and a large crop takes no longer
    than a small one. Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.

    Args:
        crop_bgr: uint8 [H, W, 3], not empty.
    """
    near = cv2.resize(crop_bgr, (2 * _LOOK_PX, 2 * _LOOK_PX), interpolation=cv2.INTER_NEAREST)
    grey = cv2.resize(cv2.cvtColor(near, cv2.COLOR_BGR2GRAY), (_LOOK_PX, _LOOK_PX), interpolation=cv2.INTER_AREA)
    _, deviations = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviations[0, 0] ** 2)


def travel_direction(first: AnyBox, last: AnyBox) -> Direction:
    """Return the direction from one box to another, along the axis on which the middle moved farther."""
    (x, y), (u, v) = centre(first), centre(last)
    if max(abs(u - x), abs(v - y)) < _STANDS * max(diagonal(first), diagonal(last)):
        return "none"
    if abs(u - x) >= abs(v - y):
        return "left_to_right" if u > x else "right_to_left"
    return "down" if v > y else "up"
