"""When a visit's answer is published again: hysteresis between what its events said and what its crops say now.

A visit's first answer is published at once, and so is one that adds to it (make, model, year). One that contradicts it
or says less has to do so over several crops in a row and by a clear margin, or the answer would flap whenever a
probability crosses the threshold back and forth.
"""

from __future__ import annotations

from twincar_edge.manifest import Manifest
from twincar_edge.runtime.evidence import AGREEING_SHARE, Evidence
from twincar_edge.runtime.inference.answers import Level, Prediction, agrees
from twincar_edge.runtime.inference.classifier import FAMILIARITY_MARGIN

PATIENCE = 3  # crops in a row that must contradict the published answer,
MARGIN = 0.1  # and the probability, or the share of crops that agree, by which they must, to replace it


class PublishedAnswer:
    """The answer that a visit's events gave last.

    Attributes:
        prediction: the answer, or None before the first event.
        contradictions: crops in a row since then whose evidence contradicted it, or supported only a part of it.
    """

    def __init__(self) -> None:
        """Start without an answer."""
        self.prediction: Prediction | None = None
        self.contradictions = 0

    def update(self, evidence: Evidence) -> Prediction | None:
        """Return the answer to publish after another crop was added, or None where the published one stands."""
        new, old = evidence.answer(), self.prediction
        if old is not None and not extends(new, old):
            self.contradictions += 1
            if self.contradictions < PATIENCE or not overrules(new, old, evidence):
                return None
        self.prediction, self.contradictions = new, 0
        return new if old is None or new.name != old.name else None


def extends(new: Prediction, old: Prediction) -> bool:
    """Return whether an answer says all that another one says, and possibly more."""
    return old.vehicle is None or (new.vehicle is not None and agrees(old.vehicle, new.vehicle))


def unfamiliar(answer: Prediction, familiarity: float | None, manifest: Manifest) -> bool:
    """Return whether a vehicle is clearly not familiar enough for an answer to go as far as this one does."""
    if familiarity is None or manifest.familiarity is None:
        return False
    needed: float = getattr(manifest.familiarity.thresholds, told_at(answer))
    return familiarity < needed - FAMILIARITY_MARGIN


def told_at(answer: Prediction) -> Level:
    """Return the level whose rules an answer met: a class's whole name is of the deepest, whatever it says."""
    return answer.level if answer.label is None else "year"


def overrules(new: Prediction, old: Prediction, evidence: Evidence) -> bool:
    """Return whether the evidence is clearly against `old` and for `new`, which does not extend it."""
    assert old.vehicle is not None, "any answer extends `unknown`"
    if evidence.merged:
        return True
    manifest, hierarchy = evidence.classifier.manifest, evidence.classifier.hierarchy
    if not hierarchy.may_be_a(old.vehicle, evidence.vehicle_type):
        return True
    left = hierarchy.probability(old.vehicle, evidence.probabilities)
    if extends(old, new):  # it says less
        divided = evidence.agreement(told_at(old), old.vehicle) < AGREEING_SHARE - MARGIN
        return divided or left < manifest.reject_below - MARGIN or unfamiliar(old, evidence.familiarity, manifest)
    return left + MARGIN <= new.probability
