"""Combines the model's answers for the crops of one vehicle.

The combined probabilities are the weighted mean of the crops' log-probabilities, renormalized: their weighted geometric
mean. A crop's weight is its area times its sharpness, and a tenth of that if the frame's border cuts the vehicle. It is
the mean, not the sum, because the crops of one vehicle are correlated: a sum over a hundred of them would be certain of
anything. The combined familiarity is the mean with the same weights. The model's temperature and thresholds then apply
as they do to a single image.

A single misleading crop can dominate the mean, so a name also needs consensus: several crops for which it is the most
probable, and at least one that clearly supports it on its own. The heaviest of these becomes the visit's picture.

A track may contain two vehicles, one hidden behind the other. If several crops clearly support a full name, and several
crops that are all later support a name of another make, the answer is "unknown". Two names of the same make do not
count, because models of one make can look alike from one side.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.labels import VehicleName
from twincar_edge.metrics import softmax
from twincar_edge.runtime.events import MAX_DECIDING_FRAMES, MAX_LEADS, Lead, Limit
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level, Prediction, agrees
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box, touches_border
from twincar_edge.runtime.sources import Frame

_MIN_PROBABILITY = 1e-12  # so that no single crop rules out a class by rounding to zero
_MIN_FACTOR = 1e-3  # so that a crop without any structure has some weight, in case there is no other
CUT_WEIGHT = 0.1  # factor for crops that the frame's border cuts
_HALF_SHARP = 1500.0  # of `sharpness`: typical of a good picture; out of focus, it is about a tenth of that
_SHARPNESS_PX = 112
# Margins for a clear answer, in multiples of what compressing a picture may change. An unknown vehicle has crops that
# are far below all thresholds; a known one may have few crops that are far above them.
_CLEAR_NAME, _CLEARLY_UNKNOWN = 1.0, -2.0
_MAX_PICTURES = 4  # per vehicle, each of a different answer
# A model or a full name must be the most probable name of its level for this many crops. A make needs fewer if there
# are fewer crops. Frigate uses the same number for its custom classifiers.
AGREEING_CROPS = 3
AGREEING_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class VehicleCrop:
    """A crop of a vehicle with its weight. The pixels are copied, so the crop does not keep its frame in memory.

    Attributes:
        frame: the frame's index.
        box_xyxy: the vehicle's box in the frame, in pixels.
        picture_bgr: the pixels in the box, uint8 [h, w, 3].
        weight: the weight relative to other crops of the same vehicle, above 0.
        cut: the frame's border cuts the vehicle.
    """

    frame: int
    box_xyxy: Box
    picture_bgr: NDArray[np.uint8]
    weight: float
    cut: bool = False

    @property
    def size_px(self) -> int:
        """Return the shorter side of the vehicle's box."""
        return int(min(self.picture_bgr.shape[:2]))


def crop_vehicle(frame: Frame, box: Box, score: float, *, place: bool = False) -> VehicleCrop:
    """Crop a vehicle from a frame.

    Args:
        frame: the frame.
        box: the vehicle's box in it, in pixels.
        score: the locator's confidence, between 0 and 1.
        place: the box is that of a place, such as a zone: if it touches the border, the vehicle need not be cut.
    """
    left, top, right, bottom = box
    picture_bgr = frame.image_bgr[top:bottom, left:right].copy()
    rows, columns = frame.image_bgr.shape[:2]
    cut = not place and touches_border(box, (columns, rows))
    return VehicleCrop(frame.index, box, picture_bgr, crop_weight(picture_bgr, max(score, _MIN_FACTOR), cut), cut)


@dataclass
class _Span:
    """The crops that clearly support full names of one make: their count, and the numbers of the first and last."""

    first: int
    last: int = 0
    crops: int = 0

    def add(self, number: int) -> None:
        self.last = number
        self.crops += 1


class Evidence:
    """The combined evidence of one vehicle's crops. Memory use does not grow with their number.

    Everything except `crops` and `add` needs at least one crop.

    Attributes:
        crops: the number of crops.
        vehicle_type: the detector's class of the vehicle; None if the locator has no classes. Only names of this type
            can be the answer.
    """

    def __init__(self, *, single: bool = False) -> None:
        """Start without crops.

        Args:
            single: the vehicle has only one crop, from a single image, so its answer needs no consensus.
        """
        self.vehicle_type: str | None = None
        self._single = single
        self._start(None)

    def _start(self, classifier: Classifier | None) -> None:
        self._classifier = classifier
        self.crops = 0
        self._whole = self._large = 0  # how many crops are not cut, and how many are large enough for a full name
        self._weight = 0.0
        self._log_probabilities: NDArray[np.float64] | float = 0.0
        self._familiarity: float | None = None  # times the weight
        self._leads: list[Lead] = []
        self._label = -1  # the leading class
        self._frame = 0  # the newest crop's frame
        self._heaviest: VehicleCrop | None = None
        # The keys are the crops' own answers, None for "unknown". `_frames` has heaps of (weight, frame) of the
        # heaviest crops; of the crops with a clear answer, `_clear` has the counts and `_pictures` the heaviest.
        self._frames: dict[VehicleName | None, list[tuple[float, int]]] = {}
        self._clear: Counter[VehicleName | None] = Counter()
        self._makes: dict[str, _Span] = {}
        self._pictures: dict[VehicleName | None, VehicleCrop] = {}
        self._votes: dict[Level, Counter[VehicleName]] = {level: Counter() for level in KNOWN_LEVELS}

    def add(
        self,
        crop: VehicleCrop,
        probabilities: NDArray[np.float32],
        classifier: Classifier,
        familiarity: float | None = None,
    ) -> None:
        """Add a classified crop.

        Answers of two models are never combined: the first answer of another model file discards all earlier ones.

        Args:
            crop: the crop.
            probabilities: the model's answer, float32 [classes].
            classifier: the model that classified the crop.
            familiarity: the crop's familiarity; None if the model has no prototypes.
        """
        if self._classifier is not None and self._classifier.session.sha256 != classifier.session.sha256:
            self._start(classifier)
        self._classifier = classifier
        logs = np.log(np.maximum(probabilities.astype(np.float64), _MIN_PROBABILITY))
        self._log_probabilities = self._log_probabilities + crop.weight * logs
        if familiarity is not None:
            self._familiarity = (self._familiarity or 0.0) + crop.weight * familiarity
        self._weight += crop.weight
        self.crops += 1
        self._whole += not crop.cut
        large = classifier.names_in_full(crop.size_px)
        self._large += large
        for level, votes in self._votes.items():
            if level != "year" or large:
                votes[classifier.hierarchy.best(level, probabilities)[0]] += 1
        self._update_leads(crop.frame)
        self._keep_if_heaviest(crop, probabilities, classifier, familiarity)

    def _update_leads(self, frame: int) -> None:
        """Record the leading class if it has changed. Above the limit, drop the oldest lead except the first."""
        self._frame, before = frame, self._label
        self._label = int(np.argmax(self._log_probabilities))
        if self._label != before:
            self._leads.append(self._lead())
        if len(self._leads) > MAX_LEADS - 1:
            del self._leads[1]

    def _lead(self) -> Lead:
        probability = min(1.0, round(float(self.probabilities[self._label]), 6))
        return Lead(name=self.classifier.hierarchy.classes[self._label], probability=probability, frame=self._frame)

    def course(self) -> tuple[Lead, ...]:
        """Return how the answer developed: each new leading class, then the current one; at most 16."""
        leads = tuple(self._leads)
        return leads if leads[-1].frame == self._frame else (*leads, self._lead())

    def _keep_if_heaviest(
        self, crop: VehicleCrop, probabilities: NDArray[np.float32], classifier: Classifier, familiarity: float | None
    ) -> None:
        """Keep the crop's frame and picture, unless heavier crops have the same answer."""

        def alone(margin: float) -> Prediction:
            return classifier.answer(probabilities, familiarity, size_px=crop.size_px, margin=margin)

        frames = self._frames.setdefault(alone(0).vehicle, [])
        heapq.heappush(frames, (crop.weight, crop.frame))
        if len(frames) > MAX_DECIDING_FRAMES:
            heapq.heappop(frames)
        if self._heaviest is None or crop.weight > self._heaviest.weight:
            self._heaviest = crop
        clear = alone(_CLEAR_NAME)
        clearly = clear.vehicle
        if clearly is None and alone(_CLEARLY_UNKNOWN).vehicle is not None:
            return  # neither clearly a name nor clearly unknown
        self._clear[clearly] += 1
        if clearly is not None and clear.label is not None:  # full names only: similar cars of two makes get mixed up
            self._makes.setdefault(clearly.make, _Span(self.crops)).add(self.crops)
        heaviest = self._pictures.get(clearly)
        if heaviest is None or crop.weight > heaviest.weight:
            self._pictures[clearly] = crop
        if len(self._pictures) > _MAX_PICTURES:
            del self._pictures[min(self._pictures, key=self._clear.__getitem__)]

    @property
    def classifier(self) -> Classifier:
        """Return the model that classified the crops."""
        assert self._classifier is not None, "no crop was added"
        return self._classifier

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the combined probabilities of all crops, float32 [classes]."""
        return softmax(np.asarray(self._log_probabilities / self._weight, np.float32))

    @property
    def familiarity(self) -> float | None:
        """Return the combined familiarity of all crops; None if the model has no prototypes."""
        return None if self._familiarity is None else self._familiarity / self._weight

    def answer(self) -> Prediction:
        """Return the combined answer, as specific as the model's thresholds and the consensus allow."""
        if self._single:  # as `classify` answers a picture, with the limit of its size
            assert self._heaviest is not None, "no crop was added"
            size_px = self._heaviest.size_px
            answer = self.classifier.answer(self.probabilities, self.familiarity, size_px=size_px)
        else:  # the consensus takes the sizes of the crops into account
            answer = self.classifier.answer(self.probabilities, self.familiarity, allowed=self._has_consensus)
        return self.classifier.hierarchy.of_kind(answer, self.vehicle_type)

    @property
    def merged(self) -> bool:
        """Return whether the crops show two vehicles, one after the other."""
        spans = [span for span in self._makes.values() if span.crops >= AGREEING_CROPS]
        return bool(spans) and min(span.last for span in spans) < max(span.first for span in spans)

    @property
    def limit(self) -> Limit | None:
        """Return why the answer is limited, or None."""
        if self.merged:
            return "merged"
        if not self._whole:
            return "cut"
        return None if self._large else "small"

    def agreement(self, level: Level, vehicle: VehicleName) -> float:
        """Return the share of crops, from 0 to 1, for which a name is the most probable of its level.

        For a full name, only crops that are large enough for one count; the share is 0 if there are none.
        """
        votes = self._votes[level]
        return votes[vehicle] / votes.total() if votes else 0.0

    def _has_consensus(self, level: Level, vehicle: VehicleName) -> bool:
        if self.merged:
            return False
        needed = min(AGREEING_CROPS, self.crops) if level == "make" else AGREEING_CROPS
        enough = self._votes[level][vehicle] >= needed and self.agreement(level, vehicle) >= AGREEING_SHARE
        return enough and any(_supports(alone, vehicle) for alone in self._pictures)

    def shown(self, answer: Prediction) -> VehicleCrop:
        """Return the best crop for an answer: the heaviest of those that clearly support it on their own.

        For `unknown`, that is a crop whose own answer is unknown. If no crop is clear, it is the heaviest of all.
        """
        crops = [crop for alone, crop in self._pictures.items() if _supports(alone, answer.vehicle)]
        assert self._heaviest is not None, "no crop was added"
        return max(crops, key=lambda crop: crop.weight, default=self._heaviest)

    def deciding_frames(self, answer: Prediction) -> tuple[int, ...]:
        """Return up to 16 frames whose crops support an answer on their own: that of `shown` first, then by weight."""
        shown = self.shown(answer).frame
        pairs = [pair for alone, pairs in self._frames.items() if _supports(alone, answer.vehicle) for pair in pairs]
        frames = [frame for _, frame in sorted(pairs, reverse=True) if frame != shown]
        return (shown, *frames)[:MAX_DECIDING_FRAMES]


def _supports(alone: VehicleName | None, answer: VehicleName | None) -> bool:
    """Return whether a crop's own answer equals or refines an answer; "unknown" supports only "unknown"."""
    if alone is None or answer is None:
        return alone is answer
    return agrees(answer, alone)


def crop_weight(crop_bgr: NDArray[np.uint8], score: float, cut: bool) -> float:
    """Return a crop's weight relative to others of the same vehicle, above 0: area x score x sharpness, less if cut."""
    rows, columns = crop_bgr.shape[:2]
    sharp = sharpness(crop_bgr)
    factor = max(sharp / (sharp + _HALF_SHARP), _MIN_FACTOR)
    return float(max(1, rows * columns) * score * factor * (CUT_WEIGHT if cut else 1.0))


def sharpness(crop_bgr: NDArray[np.uint8]) -> float:
    """Return a crop's sharpness: the variance of its Laplacian.

    It is computed on a gray copy of fixed size, so that neither the result nor the time depends on the crop's size.
    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.

    Args:
        crop_bgr: uint8 [H, W, 3], not empty.
    """
    near = cv2.resize(crop_bgr, (2 * _SHARPNESS_PX, 2 * _SHARPNESS_PX), interpolation=cv2.INTER_NEAREST)
    gray = cv2.resize(
        cv2.cvtColor(near, cv2.COLOR_BGR2GRAY), (_SHARPNESS_PX, _SHARPNESS_PX), interpolation=cv2.INTER_AREA
    )
    _, deviations = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    return float(deviations[0, 0] ** 2)
