"""Chooses thresholds from unknown images, with a limit for wrong full names and one for any wrong names."""

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
MIN_PROBABILITY = 0.5  # above 0.5, names of different levels cannot contradict each other
_STEP = 0.05  # of probability thresholds, for a model with familiarity
_FINE_STEP = 0.01  # of probability thresholds, for a model without familiarity
_DIGITS = 4  # of familiarity thresholds
_MAX_STEPS = 256  # familiarity thresholds to try
_Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """Thresholds, and the shares of unknown images that still get a wrong full name and any wrong name.

    `thresholds` is None if the model has no familiarity.
    """

    reject_below: float
    thresholds: FamiliarityThresholds | None
    wrong_names: float
    wrong_claims: float


@dataclass(frozen=True)
class UnknownScores:
    """A model's scores for unknown images.

    Attributes:
        scores: the scores of each image.
        cars: the car on each image; None if any name is wrong.
    """

    scores: Scores
    cars: Sequence[VehicleName | None]

    def groups(self) -> NDArray[np.int64]:
        """Return a group number per image, int64 [N]: images of the same car model are not independent samples."""
        groups: dict[str, int] = {}
        return np.array(
            [
                groups.setdefault(f"image {n}" if car is None else str(car), len(groups))
                for n, car in enumerate(self.cars)
            ]
        )


def upper_bound(wrong: _Flags, groups: NDArray[np.int64]) -> float:
    """Return an upper bound of the true share of wrong answers, with 90% confidence.

    Answers to images of one car model are correlated, so the sample size is reduced to Kish's effective sample size, by
    the variance of the share between models. The bound is the upper end of Wilson's score interval for that size. If no
    answer is wrong, their correlation is unknown: all images of two or more models count, which may be optimistic.

    Args:
        wrong: whether each image got a wrong answer, bool [N], N at least 1.
        groups: the group number of each image, int64 [N], from 0.
    """
    images = len(wrong)
    share = float(wrong.mean())
    effective = float(images)
    counts, of_group = np.bincount(groups), np.bincount(groups, weights=wrong)
    if len(counts) == 1:  # one car model says nothing about others, however many images it has
        effective = 1.0
    elif 0 < share < 1:
        variance = len(counts) / (len(counts) - 1) * float(np.square(of_group - share * counts).sum()) / images**2
        effective = min(effective, share * (1 - share) / variance) if variance else effective
    return wilson_interval(share, effective, Z_90)[1]


def check_enough(images: int, limits: Limits) -> None:
    """Check that the number of unknown images is large enough for the limits.

    Raises:
        InputError: the upper bound would exceed a limit even if no image got a wrong name.
    """
    least = min(limits.names, limits.claims)
    needed = math.ceil(Z_90**2 * (1 - least) / least) if least else None
    if needed is None or images < needed:
        subject = "no number of images" if needed is None else f"{images} unknown images"
        remedy = "raise the limit" if needed is None else f"give {needed} or more, or raise the limit"
        raise InputError(f"{subject} cannot show that at most {least:.1%} get a wrong name: {remedy}")


def choose(
    known: Scores,
    labels: NDArray[np.int64],
    unknown: UnknownScores,
    hierarchy: Hierarchy,
    limits: Limits,
    reject_below: float | None = None,
) -> Choice:
    """Return the thresholds that are within the limits on unknown images (by `upper_bound`) and best for known cars.

    For each probability from 0.5 on, in steps of 0.05, chooses the lowest familiarity threshold for a full name (and a
    model) that is within the limit for wrong full names, then the lowest one for a make that is within the limit for
    all wrong names. Returns the probability with the most right full names minus wrong ones on known cars.

    Args:
        known: scores of held-out cars of the model's classes.
        labels: their labels, int64 [N].
        unknown: scores of unknown images.
        hierarchy: the hierarchy of the classes.
        limits: the largest shares of wrong names.
        reject_below: the probability threshold; None chooses it.

    Raises:
        InputError: the model has no familiarity, and no probability is within the limits.
    """
    known_certainty = certainty_by_level(known.probabilities, hierarchy, labels)["year"]
    search = _ThresholdSearch(
        unknown, certainty_by_level(unknown.scores.probabilities, hierarchy, cars=unknown.cars), limits
    )
    step = _FINE_STEP if unknown.scores.familiarity is None else _STEP
    candidates: list[float] = np.arange(MIN_PROBABILITY, 1, step).round(2).tolist()
    best: tuple[float, Choice] | None = None
    for probability in candidates if reject_below is None else [reject_below]:
        found = search.choose(probability)
        if found is None:
            continue
        named = known_certainty.best >= probability
        if known.familiarity is not None and found.thresholds is not None:
            named &= known.familiarity.astype(np.float64) >= found.thresholds.year
        gain = float(np.where(known_certainty.right, 1, -1)[named].sum())
        if best is None or gain > best[0]:
            best = gain, found
    if best is None:
        raise InputError(
            f"no probability threshold limits wrong full names to {limits.names:.1%} and wrong names to "
            f"{limits.claims:.1%} of {len(unknown.cars)} unknown images, and the model has no familiarity: "
            "raise the limits"
        )
    return best[1]


class _ThresholdSearch:
    """The search for familiarity thresholds, with a model's certainty for unknown images at each level."""

    def __init__(self, unknown: UnknownScores, levels: Mapping[Level, LevelCertainty], limits: Limits) -> None:
        self._levels = levels
        self._limits = limits
        self._groups = unknown.groups()
        self._familiarity: NDArray[np.float64] | None = None
        self._steps = [0.0]
        if unknown.scores.familiarity is not None:
            self._familiarity = unknown.scores.familiarity.astype(np.float64)
            # Just above the familiarity of each image, in descending order: at the first, no image gets a name.
            steps = np.unique(np.floor(self._familiarity * 10**_DIGITS) + 1)[::-1] / 10**_DIGITS
            self._steps = steps[np.unique(np.linspace(0, len(steps) - 1, _MAX_STEPS).astype(np.int64))].tolist()

    def choose(self, probability: float) -> Choice | None:
        """Return the lowest familiarity thresholds within the limits, or None if there are none."""
        chosen = None
        for year in self._steps:
            if not self._within_limits(probability, year, year):
                break
            chosen = year
        if chosen is None:
            return None
        make = chosen
        for lower in (step for step in self._steps if step < chosen):
            if not self._within_limits(probability, chosen, lower):
                break
            make = lower
        names, claims = self._wrong(probability, chosen, make)
        thresholds = None
        if self._familiarity is not None:
            year, make = min(chosen, 1.0), min(make, 1.0)  # rounding up may exceed 1
            thresholds = FamiliarityThresholds(year=year, model=year, make=make)
        return Choice(probability, thresholds, float(names.mean()), float(claims.mean()))

    def _within_limits(self, probability: float, year: float, make: float) -> bool:
        names, claims = self._wrong(probability, year, make)
        return (
            upper_bound(names, self._groups) <= self._limits.names
            and upper_bound(claims, self._groups) <= self._limits.claims
        )

    def _wrong(self, probability: float, year: float, make: float) -> tuple[_Flags, _Flags]:
        """Return whether each image gets a wrong full name, and whether it gets any wrong name, as in inference."""
        names = self._reached("year", probability, year)
        claims, answered = names.copy(), names
        coarser: tuple[tuple[Level, float], ...] = (("model", year), ("make", make))
        for level, familiarity in coarser:
            reached = self._reached(level, probability, familiarity) & ~answered
            claims |= reached & ~self._levels[level].right
            answered = answered | reached
        return names, claims

    def _reached(self, level: Level, probability: float, familiarity: float) -> _Flags:
        probable = self._levels[level].best >= probability
        return probable if self._familiarity is None else probable & (self._familiarity >= familiarity)
