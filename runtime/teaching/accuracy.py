"""Measured accuracy on this road: what people said of visits, held against what the box had answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from twincar_edge.labels import VehicleName, parse_name
from twincar_edge.metrics import wilson_interval
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level, agrees
from twincar_edge.runtime.teaching.corrections import Judgement

Verdict = Literal["right", "wrong", "undecided", "silent"]


@dataclass(frozen=True)
class Count:
    """So many of so many."""

    part: int
    all: int

    @property
    def share(self) -> float:
        """Return the share; 0 of nothing is 0."""
        return self.part / self.all if self.all else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the interval of 95% in which the true share lies; there is none of nothing."""
        return wilson_interval(self.share, self.all)


@dataclass(frozen=True)
class Accuracy:
    """How good the answers of one model were.

    Attributes:
        model_sha256: the model's digest.
        right: by level, the vehicles that got a right name at least so far, of all but the undecided ones.
        wrong_names: the visits that got a wrong name, of those that got a name.
        no_vehicle: the visits that were no vehicle.
        unclear: the visits of which nobody could tell; they count nowhere else.
    """

    model_sha256: str
    right: dict[Level, Count]
    wrong_names: Count
    no_vehicle: int
    unclear: int


def verdict(one: Judgement, level: Level) -> Verdict:
    """Return what a judgement means for the answer at a level: silent where the answer did not go so far.

    It is undecided where the person knew less than the box said, and what they knew fits.
    """
    said = _said(one, level)
    if said is None:
        return "silent"
    if one.truth is None:
        return "wrong"
    truth = parse_name(one.truth)
    if agrees(said, truth):
        return "right"
    return "undecided" if agrees(truth, said) else "wrong"


def measure(judgements: Iterable[Judgement]) -> list[Accuracy]:
    """Return the accuracy of each model, that with the newest judgement first."""
    by_model: dict[str, list[Judgement]] = {}
    for one in judgements:
        by_model.setdefault(one.model_sha256, []).append(one)
    newest_first = sorted(by_model.values(), key=lambda some: max(one.at for one in some), reverse=True)
    return [_measure(some) for some in newest_first]


def _measure(judgements: list[Judgement]) -> Accuracy:
    kinds = Counter(one.kind for one in judgements)
    vehicles = [one for one in judgements if one.kind == "named"]
    right = {}
    for level in KNOWN_LEVELS:
        found = Counter(verdict(one, level) for one in vehicles)
        right[level] = Count(found["right"], len(vehicles) - found["undecided"])
    told = Counter(_of_all_that_was_said(one) for one in judgements if one.kind in ("named", "no vehicle"))
    return Accuracy(
        model_sha256=judgements[0].model_sha256,
        right=right,
        wrong_names=Count(told["wrong"], told["wrong"] + told["right"]),
        no_vehicle=kinds["no vehicle"],
        unclear=kinds["unclear"],
    )


def _of_all_that_was_said(one: Judgement) -> Verdict:
    verdicts = (verdict(one, level) for level in KNOWN_LEVELS)
    return next((found for found in verdicts if found != "silent"), "silent")


def _said(one: Judgement, level: Level) -> VehicleName | None:
    """Return the box's answer as far as a level; None where it did not go so far."""
    if one.level == "unknown":
        return None
    said = parse_name(one.answered)
    if level == "year":
        return said if one.whole else None
    if level == "model":
        return None if one.level == "make" and not one.whole else VehicleName(said.make, said.model, None, None)
    return VehicleName(said.make, "", None, None)
