"""Accuracy measured on a site: the box's answers compared with the judgments of users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from twincar_edge.labels import VehicleName, parse_name
from twincar_edge.metrics import wilson_interval
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level, agrees
from twincar_edge.runtime.teaching.corrections import Judgement

Verdict = Literal["right", "wrong", "undecided", "unanswered"]


@dataclass(frozen=True)
class Count:
    """A proportion: `part` of `all`."""

    part: int
    all: int

    @property
    def share(self) -> float:
        """Return the share; 0 for an empty sample."""
        return self.part / self.all if self.all else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% confidence interval of the share; undefined for an empty sample."""
        return wilson_interval(self.share, self.all)


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a model's answers.

    Attributes:
        model_sha256: the model's digest.
        right: by level, the vehicles named correctly at least to this level, of all without an undecided verdict.
        wrong_names: the visits named wrongly, of all named visits.
        no_vehicle: the number of visits without a vehicle.
        unclear: the number of visits that users could not judge; they count nowhere else.
    """

    model_sha256: str
    right: dict[Level, Count]
    wrong_names: Count
    no_vehicle: int
    unclear: int


def verdict(one: Judgement, level: Level) -> Verdict:
    """Return whether the answer was right at a level: unanswered if the answer is less specific than the level.

    The verdict is undecided if the user's name is less specific than the answer, and agrees with it.
    """
    answered = _answered(one, level)
    if answered is None:
        return "unanswered"
    if one.truth is None:
        return "wrong"
    truth = parse_name(one.truth)
    if agrees(answered, truth):
        return "right"
    return "undecided" if agrees(truth, answered) else "wrong"


def measure(judgements: Iterable[Judgement]) -> list[Accuracy]:
    """Return the accuracy of each model; the model with the newest judgment comes first."""
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
    outcomes = Counter(_overall_verdict(one) for one in judgements if one.kind in ("named", "no vehicle"))
    return Accuracy(
        model_sha256=judgements[0].model_sha256,
        right=right,
        wrong_names=Count(outcomes["wrong"], outcomes["wrong"] + outcomes["right"]),
        no_vehicle=kinds["no vehicle"],
        unclear=kinds["unclear"],
    )


def _overall_verdict(one: Judgement) -> Verdict:
    """Return the verdict at the most specific level of the answer."""
    verdicts = (verdict(one, level) for level in KNOWN_LEVELS)
    return next((found for found in verdicts if found != "unanswered"), "unanswered")


def _answered(one: Judgement, level: Level) -> VehicleName | None:
    """Return the box's answer, cut to a level; None if it is less specific than the level."""
    if one.level == "unknown":
        return None
    name = parse_name(one.answered)
    if level == "year":
        return name if one.whole else None
    if level == "model":
        return None if one.level == "make" and not one.whole else VehicleName(name.make, name.model, None, None)
    return VehicleName(name.make, "", None, None)
