"""What the model says of one vehicle's crops together.

The answers for the crops combine as the weighted mean of their log-probabilities, renormalized: their weighted
geometric mean. A crop's weight is its area times its sharpness, and a tenth of that where the frame's border cuts it.
The mean, not the sum: the crops of one vehicle are alike, not independent, and a sum over a hundred of them would be
certain of anything. Familiarity combines as the weighted mean, with the same weights. The model's temperature and
thresholds then apply as they do to a single image.

One lucky crop can carry the mean, so a name also needs consensus: several crops that find it the most probable, and at
least one that clearly says it alone. The heaviest of these is the picture that is kept.

What was followed as one vehicle may be two, of which one shows when the other has gone. If several crops clearly give a
full name, and several that all come later give one of another make, the answer is "unknown". Two models of one make may
look alike from one side, so names of one make say nothing.
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
from twincar_edge.runtime.events import MOST_DECIDING_FRAMES, MOST_LEADS, Lead, Limit
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level, Prediction, agrees
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box, touches_border
from twincar_edge.runtime.sources import Frame

_LEAST_PROBABILITY = 1e-12  # no single crop can rule out a class for good by rounding to zero
_LEAST_SHARE = 1e-3  # a crop without any structure still counts, where there is no other
CUT_WEIGHT = 0.1  # of a crop that the frame's border cuts
_HALF_SHARP = 1500.0  # of `sharpness`: typical of a good picture; out of focus, it is about a tenth of that
_LOOK_PX = 112
# Times what compressing a picture may change. An unknown vehicle has crops that are far from any name; a named one may
# have few that are far above the thresholds.
_CLEAR_NAME, _CLEARLY_UNKNOWN = 1.0, -2.0
_MOST_PICTURES = 4  # kept of a vehicle, of different answers
# A model or a full name needs so many crops that find it the most probable of its level. A make may do with fewer where
# there are fewer. Frigate asks for as many of its custom classifiers.
AGREEING_CROPS = 3
AGREEING_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class Look:
    """A crop of a vehicle, a copy that does not keep its frame in memory.

    Attributes:
        frame: the frame's index.
        box_xyxy: the vehicle's box in the frame, in pixels.
        picture_bgr: the pixels in the box, uint8 [h, w, 3].
        weight: how much the crop counts relative to others of the same vehicle, above 0.
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


def look_at(frame: Frame, box: Box, score: float, *, place: bool = False) -> Look:
    """Crop a vehicle from a frame.

    Args:
        frame: the frame.
        box: the vehicle's box in it, in pixels.
        score: the locator's confidence, between 0 and 1.
        place: the box is that of a place, such as a zone. That it reaches the border does not mean that the vehicle is
            cut.
    """
    left, top, right, bottom = box
    picture_bgr = frame.image_bgr[top:bottom, left:right].copy()
    rows, columns = frame.image_bgr.shape[:2]
    cut = not place and touches_border(box, (columns, rows))
    return Look(frame.index, box, picture_bgr, crop_weight(picture_bgr, max(score, _LEAST_SHARE), cut), cut)


@dataclass
class _Span:
    """The crops that clearly give full names of a make: how many, and the numbers of the first and the last."""

    first: int
    last: int = 0
    crops: int = 0

    def add(self, number: int) -> None:
        self.last = number
        self.crops += 1


class Evidence:
    """What the model says of one vehicle's crops together; memory does not grow with their number.

    All but `crops` and `add` need one crop at least.

    Attributes:
        crops: how many the answer rests on.
        vehicle_type: what the detector calls the vehicle; None where the locator cannot tell. Its names alone can be
            the answer.
    """

    def __init__(self, *, single: bool = False) -> None:
        """Start without crops.

        Args:
            single: the vehicle's one crop is a single image. Nothing can agree with it, and its answer stands.
        """
        self.vehicle_type: str | None = None
        self._single = single
        self._start(None)

    def _start(self, classifier: Classifier | None) -> None:
        self._classifier = classifier
        self.crops = 0
        self._whole = self._large = 0  # crops that are not cut, and that are large enough for a full name
        self._weight = 0.0
        self._log_probabilities: NDArray[np.float64] | float = 0.0
        self._familiarity: float | None = None  # times the weight
        self._leads: list[Lead] = []
        self._label = -1  # of the class that leads
        self._frame = 0  # of the newest crop
        self._heaviest: Look | None = None
        # By what crops say alone, None for "unknown": heaps of the weights and frames of the heaviest, and, of those
        # whose answer is clear, how many there are and the heaviest.
        self._frames: dict[VehicleName | None, list[tuple[float, int]]] = {}
        self._clear: Counter[VehicleName | None] = Counter()
        self._makes: dict[str, _Span] = {}
        self._pictures: dict[VehicleName | None, Look] = {}
        self._votes: dict[Level, Counter[VehicleName]] = {level: Counter() for level in KNOWN_LEVELS}

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
            self._start(classifier)
        self._classifier = classifier
        logs = np.log(np.maximum(probabilities.astype(np.float64), _LEAST_PROBABILITY))
        self._log_probabilities = self._log_probabilities + look.weight * logs
        if familiarity is not None:
            self._familiarity = (self._familiarity or 0.0) + look.weight * familiarity
        self._weight += look.weight
        self.crops += 1
        self._whole += not look.cut
        large = classifier.names_in_full(look.size_px)
        self._large += large
        for level, votes in self._votes.items():
            if level != "year" or large:
                votes[classifier.hierarchy.best(level, probabilities)[0]] += 1
        self._follow(look.frame)
        self._keep(look, probabilities, classifier, familiarity)

    def _follow(self, frame: int) -> None:
        """Note the class that leads where it is another one than before; the first lead and the newest ones stay."""
        self._frame, before = frame, self._label
        self._label = int(np.argmax(self._log_probabilities))
        if self._label != before:
            self._leads.append(self._lead())
        if len(self._leads) > MOST_LEADS - 1:
            del self._leads[1]

    def _lead(self) -> Lead:
        probability = min(1.0, round(float(self.probabilities[self._label]), 6))
        return Lead(name=self.classifier.hierarchy.classes[self._label], probability=probability, frame=self._frame)

    def course(self) -> tuple[Lead, ...]:
        """Return how the answer developed: each class that took the lead, and how sure it is by now, at most 16."""
        leads = tuple(self._leads)
        return leads if leads[-1].frame == self._frame else (*leads, self._lead())

    def _keep(
        self, look: Look, probabilities: NDArray[np.float32], classifier: Classifier, familiarity: float | None
    ) -> None:
        """Keep the crop's frame and picture, if no heavier ones say the same."""

        def alone(margin: float) -> Prediction:
            return classifier.answer(probabilities, familiarity, size_px=look.size_px, margin=margin)

        frames = self._frames.setdefault(alone(0).vehicle, [])
        heapq.heappush(frames, (look.weight, look.frame))
        if len(frames) > MOST_DECIDING_FRAMES:
            heapq.heappop(frames)
        if self._heaviest is None or look.weight > self._heaviest.weight:
            self._heaviest = look
        clear = alone(_CLEAR_NAME)
        clearly = clear.vehicle
        if clearly is None and alone(_CLEARLY_UNKNOWN).vehicle is not None:
            return  # neither clearly a name nor clearly unknown
        self._clear[clearly] += 1
        if clearly is not None and clear.label is not None:  # in full: siblings of two makes share a lot
            self._makes.setdefault(clearly.make, _Span(self.crops)).add(self.crops)
        kept = self._pictures.get(clearly)
        if kept is None or look.weight > kept.weight:
            self._pictures[clearly] = look
        if len(self._pictures) > _MOST_PICTURES:
            del self._pictures[min(self._pictures, key=self._clear.__getitem__)]

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
        """Return the answer of all crops together, as deep as the model's thresholds and consensus allow."""
        allowed = None if self._single else self._has_consensus
        answer = self.classifier.answer(self.probabilities, self.familiarity, allowed=allowed)
        return self.classifier.hierarchy.of_kind(answer, self.vehicle_type)

    @property
    def merged(self) -> bool:
        """Return whether the crops show two vehicles, one after the other."""
        spans = [span for span in self._makes.values() if span.crops >= AGREEING_CROPS]
        return bool(spans) and min(span.last for span in spans) < max(span.first for span in spans)

    @property
    def limit(self) -> Limit | None:
        """Return what holds the answer back."""
        if self.merged:
            return "merged"
        if not self._whole:
            return "cut"
        return None if self._large else "small"

    def agreement(self, level: Level, vehicle: VehicleName) -> float:
        """Return the share of crops, from 0 to 1, that find a name the most probable of its level.

        Of a full name, it is the share of those that are large enough for one; 0 where none is.
        """
        votes = self._votes[level]
        return votes[vehicle] / votes.total() if votes else 0.0

    def _has_consensus(self, level: Level, vehicle: VehicleName) -> bool:
        if self.merged:
            return False
        needed = min(AGREEING_CROPS, self.crops) if level == "make" else AGREEING_CROPS
        enough = self._votes[level][vehicle] >= needed and self.agreement(level, vehicle) >= AGREEING_SHARE
        return enough and any(_says(alone, vehicle) for alone in self._pictures)

    def shown(self, answer: Prediction) -> Look:
        """Return the crop that shows an answer best: the heaviest of those that clearly give it alone.

        An `unknown` is shown by a crop that is unknown alone. Where no crop's answer is clear, it is the heaviest.
        """
        looks = [look for alone, look in self._pictures.items() if _says(alone, answer.vehicle)]
        assert self._heaviest is not None, "no crop was added"
        return max(looks, key=lambda look: look.weight, default=self._heaviest)

    def deciding_frames(self, answer: Prediction) -> tuple[int, ...]:
        """Return the frames whose crops give an answer alone, at most 16: the one that is shown, then the heaviest."""
        shown = self.shown(answer).frame
        pairs = [pair for alone, pairs in self._frames.items() if _says(alone, answer.vehicle) for pair in pairs]
        frames = [frame for _, frame in sorted(pairs, reverse=True) if frame != shown]
        return (shown, *frames)[:MOST_DECIDING_FRAMES]


def _says(alone: VehicleName | None, answer: VehicleName | None) -> bool:
    """Return whether a crop's own answer says all of an answer, and possibly more; of "unknown", whether it is too."""
    if alone is None or answer is None:
        return alone is answer
    return agrees(answer, alone)


def crop_weight(crop_bgr: NDArray[np.uint8], score: float, cut: bool) -> float:
    """Return a crop's weight relative to others of the same vehicle, above 0: area x score x sharpness, less if cut."""
    rows, columns = crop_bgr.shape[:2]
    sharp = sharpness(crop_bgr)
    clear = max(sharp / (sharp + _HALF_SHARP), _LEAST_SHARE)
    return float(max(1, rows * columns) * score * clear * (CUT_WEIGHT if cut else 1.0))


def sharpness(crop_bgr: NDArray[np.uint8]) -> float:
    """Return how much fine structure a crop has: the variance of its Laplacian.

    Computed on a gray copy of a fixed size, so that neither the result nor the time depends on the crop's size.
    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.

    Args:
        crop_bgr: uint8 [H, W, 3], not empty.
    """
    near = cv2.resize(crop_bgr, (2 * _LOOK_PX, 2 * _LOOK_PX), interpolation=cv2.INTER_NEAREST)
    gray = cv2.resize(cv2.cvtColor(near, cv2.COLOR_BGR2GRAY), (_LOOK_PX, _LOOK_PX), interpolation=cv2.INTER_AREA)
    _, deviations = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    return float(deviations[0, 0] ** 2)
