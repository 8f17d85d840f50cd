"""Decides when to publish a visit's answer again: hysteresis between the published and the current answer.

The first answer is published immediately, and so is one that extends it (make, model, year). An answer that contradicts
it or is less specific must hold for several crops in a row and by a clear margin. Otherwise the answer would flap
whenever a probability crosses the threshold.
"""

from __future__ import annotations

from twincar_edge.manifest import Manifest
from twincar_edge.runtime.evidence import AGREEING_SHARE, Evidence
from twincar_edge.runtime.inference.answers import Level, Prediction, agrees
from twincar_edge.runtime.inference.classifier import FAMILIARITY_MARGIN

PATIENCE = 3  # how many crops in a row must contradict the published answer to replace it
MARGIN = 0.1  # and by how much: the margin in probability, or in the share of crops that agree


class PublishedAnswer:
    """The answer in a visit's last event.

    Attributes:
        prediction: the answer, or None before the first event.
        contradictions: the number of crops in a row whose evidence contradicts it or supports only a part of it.
    """

    def __init__(self) -> None:
        """Start without an answer."""
        self.prediction: Prediction | None = None
        self.contradictions = 0

    def update(self, evidence: Evidence) -> Prediction | None:
        """Return the answer to publish after a crop was added, or None if the published one remains."""
        new, old = evidence.answer(), self.prediction
        if old is not None and not extends(new, old):
            self.contradictions += 1
            if self.contradictions < PATIENCE or not overrules(new, old, evidence):
                return None
        self.prediction, self.contradictions = new, 0
        return new if old is None or new.name != old.name else None


def extends(new: Prediction, old: Prediction) -> bool:
    """Return whether an answer equals another one or refines it."""
    return old.vehicle is None or (new.vehicle is not None and agrees(old.vehicle, new.vehicle))


def unfamiliar(answer: Prediction, familiarity: float | None, manifest: Manifest) -> bool:
    """Return whether the familiarity is clearly below the threshold of an answer's level."""
    if familiarity is None or manifest.familiarity is None:
        return False
    threshold: float = getattr(manifest.familiarity.thresholds, threshold_level(answer))
    return familiarity < threshold - FAMILIARITY_MARGIN


def threshold_level(answer: Prediction) -> Level:
    """Return the level whose thresholds apply to an answer: "year" for a full class name, even one without a year."""
    return answer.level if answer.label is None else "year"


def overrules(new: Prediction, old: Prediction, evidence: Evidence) -> bool:
    """Return whether the evidence is clearly against `old` and for `new`, which does not extend `old`."""
    assert old.vehicle is not None, "any answer extends `unknown`"
    if evidence.merged:
        return True
    manifest, hierarchy = evidence.classifier.manifest, evidence.classifier.hierarchy
    if not hierarchy.may_be_a(old.vehicle, evidence.vehicle_type):
        return True
    remaining = hierarchy.probability(old.vehicle, evidence.probabilities)
    if extends(old, new):  # `new` is less specific
        divided = evidence.agreement(threshold_level(old), old.vehicle) < AGREEING_SHARE - MARGIN
        return divided or remaining < manifest.reject_below - MARGIN or unfamiliar(old, evidence.familiarity, manifest)
    return remaining + MARGIN <= new.probability
