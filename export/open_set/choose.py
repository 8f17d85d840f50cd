"""Thresholds by pictures of what a model does not know: each level bounded by its own share of wrong claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.export.open_set.limits import Limits
from twincar_edge.export.open_set.scores import Scores
from twincar_edge.labels import VehicleName
from twincar_edge.manifest import FamiliarityThresholds
from twincar_edge.metrics import wilson_interval
from twincar_edge.runtime.inference.answers import Hierarchy, Level
from twincar_edge.runtime.inference.levels import LevelCertainty, certainty_by_level

Z_90 = 1.2815515655446004  # the normal distribution's 90% point
LEAST_PROBABILITY = 0.5  # above it no two names contradict each other
_STEP = 0.05  # of probability, where familiarity decides too
_FINE_STEP = 0.01  # where it decides alone
_DIGITS = 4  # of familiarity
_MOST_STEPS = 256  # of familiarity that are tried
_Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """Thresholds, and the shares of the unknown pictures that still get a wrong name in full and any wrong claim.

    `thresholds` is None where the model has no familiarity.
    """

    reject_below: float
    thresholds: FamiliarityThresholds | None
    wrong_names: float
    wrong_claims: float


@dataclass(frozen=True)
class UnknownScores:
    """What a model says of pictures of what it does not know.

    Attributes:
        scores: of each picture.
        cars: the car on each; None where any name is wrong.
    """

    scores: Scores
    cars: Sequence[VehicleName | None]

    def groups(self) -> NDArray[np.int64]:
        """Return which pictures show the same model of car, int64 [N]: those are no independent evidence."""
        places: dict[str, int] = {}
        return np.array(
            [
                places.setdefault(f"picture {n}" if car is None else str(car), len(places))
                for n, car in enumerate(self.cars)
            ]
        )


def upper_bound(wrong: _Flags, groups: NDArray[np.int64]) -> float:
    """Return a bound that the true share of wrong answers exceeds once in ten times.

    Pictures of one model of car tend to be right or wrong together, so they count as fewer pictures, by as much as the
    share differs among models more than chance has it (Kish's effective sample size). The bound is the upper end of
    Wilson's score interval for that many.

    Args:
        wrong: which pictures got a wrong answer, bool [N], N at least 1.
        groups: int64 [N], from 0.
    """
    images = len(wrong)
    share = float(wrong.mean())
    effective = float(images)
    counts, of_group = np.bincount(groups), np.bincount(groups, weights=wrong)
    if 0 < share < 1 and len(counts) > 1:
        variance = len(counts) / (len(counts) - 1) * float(np.square(of_group - share * counts).sum()) / images**2
        effective = min(effective, share * (1 - share) / variance) if variance else effective
    return wilson_interval(share, effective, Z_90)[1]


def check_enough(pictures: int, limits: Limits) -> None:
    """Make sure that so many pictures can show that a share is held.

    Raises:
        InputError: even if none of them were named wrongly, the bound would be above a limit.
    """
    least = min(limits.names, limits.claims)
    needed = math.ceil(Z_90**2 * (1 - least) / least) if least else None
    if needed is None or pictures < needed:
        many = "no number of pictures" if needed is None else f"{pictures} pictures of what the model does not know"
        more = "allow more" if needed is None else f"give {needed} or more, or allow more"
        raise InputError(f"{many} cannot show that at most {least:.1%} get a wrong name: {more}")


def choose(
    known: Scores,
    labels: NDArray[np.int64],
    unknown: UnknownScores,
    hierarchy: Hierarchy,
    limits: Limits,
    reject_below: float | None = None,
) -> Choice:
    """Return the thresholds that keep to the limits on unknown pictures, by `upper_bound`, and cost known cars least.

    For each probability from a half on, in steps of 0.05, the least familiarity of a class in full is the lowest that
    holds wrong names, that of a model the same, and that of a make the lowest that holds wrong claims. Of these, the
    probability is chosen that gives the known cars the most right names in full, less the wrong ones.

    Args:
        known: of held-out cars of the model's classes.
        labels: their classes, int64 [N].
        unknown: of what the model does not know.
        hierarchy: of the classes.
        limits: the shares that are allowed.
        reject_below: the probability; None chooses it.

    Raises:
        InputError: the model has no familiarity, and no probability keeps to the limits.
    """
    of_known = certainty_by_level(known.probabilities, hierarchy, labels)["year"]
    pictures = _Pictures(
        unknown, certainty_by_level(unknown.scores.probabilities, hierarchy, cars=unknown.cars), limits
    )
    step = _FINE_STEP if unknown.scores.familiarity is None else _STEP
    tried: list[float] = np.arange(LEAST_PROBABILITY, 1, step).round(2).tolist()
    best: tuple[float, Choice] | None = None
    for probability in tried if reject_below is None else [reject_below]:
        found = pictures.choose(probability)
        if found is None:
            continue
        named = of_known.best >= probability
        if known.familiarity is not None and found.thresholds is not None:
            named &= known.familiarity.astype(np.float64) >= found.thresholds.year
        gain = float(np.where(of_known.right, 1, -1)[named].sum())
        if best is None or gain > best[0]:
            best = gain, found
    if best is None:
        raise InputError(
            f"no probability holds wrong names to {limits.names:.1%} and wrong claims to {limits.claims:.1%} of "
            f"{len(unknown.cars)} pictures without familiarity: allow more"
        )
    return best[1]


class _Pictures:
    """What a model says of unknown pictures at each level, as arrays [N]."""

    def __init__(self, unknown: UnknownScores, levels: Mapping[Level, LevelCertainty], limits: Limits) -> None:
        self._levels = levels
        self._limits = limits
        self._groups = unknown.groups()
        self._familiarity: NDArray[np.float64] | None = None
        self._steps = [0.0]
        if unknown.scores.familiarity is not None:
            self._familiarity = unknown.scores.familiarity.astype(np.float64)
            # Just above each picture's, the highest first: the first of them names no picture.
            steps = np.unique(np.floor(self._familiarity * 10**_DIGITS) + 1)[::-1] / 10**_DIGITS
            self._steps = steps[np.unique(np.linspace(0, len(steps) - 1, _MOST_STEPS).astype(np.int64))].tolist()

    def choose(self, probability: float) -> Choice | None:
        """Return the lowest thresholds of familiarity that keep to the limits; None where none do."""
        chosen = None
        for year in self._steps:
            if not self._held(probability, year, year):
                break
            chosen = year
        if chosen is None:
            return None
        make = chosen
        for lower in (step for step in self._steps if step < chosen):
            if not self._held(probability, chosen, lower):
                break
            make = lower
        names, claims = self._wrong(probability, chosen, make)
        thresholds = None
        if self._familiarity is not None:
            year, make = min(chosen, 1.0), min(make, 1.0)  # rounding up may have gone beyond what is possible
            thresholds = FamiliarityThresholds(year=year, model=year, make=make)
        return Choice(probability, thresholds, float(names.mean()), float(claims.mean()))

    def _held(self, probability: float, year: float, make: float) -> bool:
        names, claims = self._wrong(probability, year, make)
        return (
            upper_bound(names, self._groups) <= self._limits.names
            and upper_bound(claims, self._groups) <= self._limits.claims
        )

    def _wrong(self, probability: float, year: float, make: float) -> tuple[_Flags, _Flags]:
        """Return which pictures get a wrong name in full, and which any wrong claim, answered as a box answers."""
        names = self._reached("year", probability, year)
        claims, answered = names.copy(), names
        coarser: tuple[tuple[Level, float], ...] = (("model", year), ("make", make))
        for level, familiarity in coarser:
            reached = self._reached(level, probability, familiarity) & ~answered
            claims |= reached & ~self._levels[level].right
            answered = answered | reached
        return names, claims

    def _reached(self, level: Level, probability: float, familiarity: float) -> _Flags:
        sure = self._levels[level].best >= probability
        return sure if self._familiarity is None else sure & (self._familiarity >= familiarity)
