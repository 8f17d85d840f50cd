"""From evidence to events: when a vehicle's answer is told, when it changes, and what its visit was at the end.

The answer of a visit is told as soon as there is one, and may say more (make, model, year) as soon as it can. But what
was said is taken back only after the evidence was against it for some crops and clearly so: an answer does not flap
because a probability crosses the threshold to and fro. The `end` event owes nothing to what was said before: it has the
answer of all the evidence. docs/events.md describes the events.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from twincar_edge.runtime.events import ClassifierRecord, Event, EventType, NamedProbability
from twincar_edge.runtime.evidence import Evidence
from twincar_edge.runtime.inference.answers import Prediction, agrees
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.sources import Frame

PATIENCE = 3  # crops in a row must be against an answer before it is taken back,
CLEARLY = 0.1  # and by so much of probability


class VisitMaker:
    """Turns evidence into events: knows the camera, the model, the clock and where ids come from.

    `begin` may be called from one thread while another one answers.
    """

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
        """Take what every visit of a camera shares; `source` has no secrets in it any more."""
        self._source = source
        self._classifier = classifier
        self._camera = camera
        self._stills = stills
        self._clock = clock
        self._new_id = new_id or _random_id

    def use(self, classifier: Classifier) -> None:
        """Answer with another model: crops that are added from now on were seen by it.

        A visit whose next crop comes begins its evidence anew, and one that gets no more ends with what it has, in the
        name of the model that said it.
        """
        self._classifier = classifier

    def begin(self, frame: Frame, box: Box) -> Evidence:
        """Return empty evidence for a vehicle that is first seen in this frame, now."""
        return Evidence(frame, box, self._clock(), self._new_id(), lambda: self._classifier)

    def answer(self, evidence: Evidence) -> Prediction:
        """Return what the model says of a vehicle so far; the evidence holds one crop at least."""
        return _model_of(evidence).answer(evidence.probabilities)

    def news(self, evidence: Evidence) -> Event | None:
        """Return what is to be told after a crop was added: `start` the first time, `update` for another answer."""
        new, told = self.answer(evidence), evidence.told
        if told is not None and not _replaces(new, told, evidence):
            return None
        evidence.told, evidence.against = new, 0
        return self._event("start" if told is None else "update", evidence, new)

    def finish(self, evidence: Evidence, *, false_positive: bool = False) -> Event:
        """Return the visit's `end` event, or of what turned out to be none; the evidence holds one crop at least."""
        return self._event("end", evidence, self.answer(evidence), false_positive=false_positive)

    def _event(self, kind: EventType, evidence: Evidence, result: Prediction, *, false_positive: bool = False) -> Event:
        vehicle = result.vehicle
        session = _model_of(evidence).session
        first_time_s, last_time_s = evidence.times_s
        first_frame, last_frame = evidence.frames
        return Event(
            type=kind,
            id=evidence.id,
            camera=self._camera,
            source=self._source,
            zone=evidence.zone,
            image=evidence.image if self._stills else None,
            name=result.name,
            level=result.level,
            probability=_rounded(result.probability),
            make=vehicle and vehicle.make,
            model=None if vehicle is None or result.level == "make" else vehicle.model,
            body_type=vehicle and vehicle.body_type,
            year=vehicle and vehicle.year,
            top5=tuple(
                NamedProbability(name=guess.name, probability=_rounded(guess.probability)) for guess in result.top5
            ),
            crops=evidence.crops,
            direction=evidence.direction,
            first_time_s=None if self._stills else round(first_time_s, 3),
            last_time_s=None if self._stills else round(last_time_s, 3),
            first_frame=first_frame,
            last_frame=last_frame,
            best_frame=evidence.best_frame,
            box_xyxy=evidence.best_box,
            started_at=evidence.started_at,
            ended_at=self._clock() if kind == "end" else None,
            false_positive=false_positive,
            classifier=ClassifierRecord(
                name=session.manifest.name, sha256=session.sha256, precision=session.manifest.precision, ep=session.ep
            ),
        )


def _replaces(new: Prediction, told: Prediction, evidence: Evidence) -> bool:
    """Return whether an answer is to be told in place of the one that was, and count how long they have differed."""
    if new.name == told.name:
        evidence.against = 0
        return False
    if told.vehicle is None or (new.vehicle is not None and agrees(told.vehicle, new.vehicle)):
        return True  # it only says more
    evidence.against += 1
    if evidence.against < PATIENCE:
        return False
    model = _model_of(evidence)
    left = model.hierarchy.probability(told.vehicle, evidence.probabilities)
    if new.vehicle is None or agrees(new.vehicle, told.vehicle):  # it only says less
        return left < model.manifest.reject_below - CLEARLY
    return left + CLEARLY <= new.probability


def _model_of(evidence: Evidence) -> Classifier:
    assert evidence.classifier is not None, "the evidence holds no crop"
    return evidence.classifier


def _rounded(probability: float) -> float:
    return min(1.0, round(probability, 6))


def _random_id() -> str:
    return str(uuid.uuid4())
