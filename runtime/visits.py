"""The one event that a vehicle becomes: evidence gathered crop by crop, answered once at the end.

A visit's answer is the weighted mean of its crops' log-probabilities, renormalized: the geometric mean of what each
crop said. A crop counts by its size, and for a tenth where the frame's border cuts it. The mean, not the sum: crops of
one vehicle are alike, and a hundred of them are not a hundred independent witnesses, so a sum would be certain of
anything. The model's temperature and threshold then apply as they do to one image. docs/events.md describes the event.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from twincar_edge.labels import parse_name
from twincar_edge.metrics import softmax
from twincar_edge.runtime.boxes import AnyBox, Box, area, centre, diagonal, touches_border
from twincar_edge.runtime.classifier import Classifier, Prediction, answer
from twincar_edge.runtime.events import ClassifierRecord, Direction, Event, NamedProbability
from twincar_edge.runtime.sources import Frame

_LEAST_PROBABILITY = 1e-12  # a class that one crop rules out must not be ruled out for ever by rounding to zero
_CUT_WEIGHT = 0.1
_STANDS = 0.25  # of a box's diagonal: less than that is no travel


class Evidence:
    """What is known of one vehicle so far; memory does not grow with its crops.

    Attributes:
        started_at: time of day when it was first seen.
        crops: how many were classified.
        best_box: of the crop that counts most; `best_frame` is that frame's index, `best_crop` the picture.
    """

    def __init__(self, frame: Frame, box: Box, started_at: datetime) -> None:
        """Begin with the frame in which the vehicle is first seen, and where."""
        self.started_at = started_at
        self.first_index = self.last_index = frame.index
        self.first_time_s = self.last_time_s = frame.time_s
        self.image = frame.name
        self.crops = 0
        self.best_box = box
        self.best_frame = frame.index
        self.best_crop: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
        self._first_box = self._last_box = box
        self._weight = 0.0
        self._best_weight = 0.0
        self._log_probabilities: NDArray[np.float64] | float = 0.0

    def see(self, frame: Frame, box: Box) -> None:
        """Note that the vehicle is in this frame too, and where."""
        self.last_index, self.last_time_s, self._last_box = frame.index, frame.time_s, box

    def add(self, frame: Frame, box: Box, score: float, probabilities: NDArray[np.float32]) -> None:
        """Take one crop's answer.

        Args:
            frame: the frame that it was cut from.
            box: where, in pixels.
            score: how surely a vehicle is there, between 0 and 1; the locator's.
            probabilities: float32 [classes].
        """
        height, width = frame.image_bgr.shape[:2]
        weight = area(box) * max(score, 1e-3) * (_CUT_WEIGHT if touches_border(box, (width, height)) else 1.0)
        logs = np.log(np.maximum(probabilities.astype(np.float64), _LEAST_PROBABILITY))
        self._log_probabilities = self._log_probabilities + weight * logs
        self._weight += weight
        self.crops += 1
        if weight > self._best_weight:
            self._best_weight, self.best_box, self.best_frame = weight, box, frame.index
            self.best_crop = crop(frame.image_bgr, box).copy()

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the answer so far, float32 [classes]."""
        return softmax(np.asarray(self._log_probabilities / self._weight, np.float32))

    @property
    def direction(self) -> Direction:
        """Return where the vehicle went, by the middle of its first and last box."""
        return travel_direction(self._first_box, self._last_box)


class VisitMaker:
    """Turns evidence into visits: knows the source, the model, the clock and where ids come from."""

    def __init__(
        self,
        source: str,
        classifier: Classifier,
        *,
        camera: str = "camera",
        stills: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] | None = None,
    ) -> None:
        """Take what every visit of a run shares; `source` has no secrets in it any more."""
        session = classifier.session
        self._source = source
        self._camera = camera
        self._stills = stills
        self._manifest = session.manifest
        self._record = ClassifierRecord(
            name=session.manifest.name, sha256=session.sha256, precision=session.manifest.precision, ep=session.ep
        )
        self._clock = clock
        self._new_id = new_id or _random_id

    def begin(self, frame: Frame, box: Box) -> Evidence:
        """Return empty evidence for a vehicle that is first seen in this frame, now."""
        return Evidence(frame, box, self._clock())

    def answer(self, evidence: Evidence) -> Prediction:
        """Return what the model says of a vehicle so far; the evidence holds one crop at least."""
        return answer(evidence.probabilities, self._manifest.classes, self._manifest.reject_below)

    def finish(self, evidence: Evidence) -> Event:
        """Return the visit's `end` event; the evidence holds one crop at least."""
        result = self.answer(evidence)
        vehicle = None if result.label is None else parse_name(result.name)
        return Event(
            type="end",
            id=self._new_id(),
            camera=self._camera,
            source=self._source,
            image=evidence.image if self._stills else None,
            name=result.name,
            level="unknown" if result.label is None else "year",
            probability=_rounded(result.probability),
            make=vehicle and vehicle.make,
            model=vehicle and vehicle.model,
            body_type=vehicle and vehicle.body_type,
            year=vehicle and vehicle.year,
            top5=tuple(
                NamedProbability(name=guess.name, probability=_rounded(guess.probability)) for guess in result.top5
            ),
            crops=evidence.crops,
            direction=evidence.direction,
            first_time_s=None if self._stills else round(evidence.first_time_s, 3),
            last_time_s=None if self._stills else round(evidence.last_time_s, 3),
            first_frame=evidence.first_index,
            last_frame=evidence.last_index,
            best_frame=evidence.best_frame,
            box_xyxy=evidence.best_box,
            started_at=evidence.started_at,
            ended_at=self._clock(),
            classifier=self._record,
        )


def travel_direction(first: AnyBox, last: AnyBox) -> Direction:
    """Return the direction from one box to another, along the axis on which the middle moved farther."""
    (x, y), (u, v) = centre(first), centre(last)
    if max(abs(u - x), abs(v - y)) < _STANDS * max(diagonal(first), diagonal(last)):
        return "none"
    if abs(u - x) >= abs(v - y):
        return "left_to_right" if u > x else "right_to_left"
    return "down" if v > y else "up"


def crop(image_bgr: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return the part of the image in the box, uint8 [h, w, 3]: a view, not a copy."""
    left, top, right, bottom = box
    return image_bgr[top:bottom, left:right]


def _rounded(probability: float) -> float:
    return min(1.0, round(probability, 6))


def _random_id() -> str:
    return str(uuid.uuid4())
