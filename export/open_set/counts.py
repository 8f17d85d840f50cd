"""Counts answers to known cars, other cars and things other than cars, and measures their separation by scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twincar_edge.export.open_set.pictures import UnknownPictures
from twincar_edge.export.open_set.report import GroupFigures, GroupOf, KnownFigures, LevelShare, Separation
from twincar_edge.export.open_set.scores import Scores
from twincar_edge.labels import VehicleName
from twincar_edge.metrics import auroc
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Hierarchy, Level, Prediction, agrees


def depth(answer: Prediction) -> Level:
    """Return the level of an answer; "year" is a full name, even if that has no year."""
    return "year" if answer.label is not None else answer.level


def count_known(answers: Sequence[Prediction], labels: NDArray[np.int64], hierarchy: Hierarchy) -> KnownFigures:
    """Count the answers to N cars of the model's classes; `labels` are int64 [N], N at least 1."""
    reached = {level: 0 for level in KNOWN_LEVELS}
    right_by_level = dict(reached)
    named = right = 0
    for answer, label in zip(answers, labels.tolist(), strict=True):
        deepest = depth(answer)
        if deepest == "unknown":
            continue
        named += 1
        for level in KNOWN_LEVELS[KNOWN_LEVELS.index(deepest) :]:
            reached[level] += 1
            is_right = _is_right(answer, label, level, hierarchy)
            right_by_level[level] += is_right
            if level == deepest:
                right += is_right
    images = len(answers)
    levels = {
        level: LevelShare(
            coverage=reached[level] / images, right=right_by_level[level] / reached[level] if reached[level] else None
        )
        for level in KNOWN_LEVELS
    }
    return KnownFigures(
        images=images, levels=levels, right=right / named if named else None, unknown=(images - named) / images
    )


def _is_right(answer: Prediction, label: int, level: Level, hierarchy: Hierarchy) -> bool:
    """Return whether an answer is right at a level that it reaches."""
    groups = hierarchy.groups(level)
    if groups is None:
        return answer.label == label
    of_truth = int(groups.of_class[label])
    if answer.label is not None:
        return int(groups.of_class[answer.label]) == of_truth
    truth = groups.names[of_truth]
    if answer.level == level:
        return answer.vehicle == truth
    return answer.make == truth.make


def _outcome(answer: Prediction, car: VehicleName | None) -> str:
    """Return the share of `GroupFigures` that an answer to an unknown image belongs to."""
    deepest = depth(answer)
    if answer.vehicle is None or deepest == "unknown":
        return "unknown"
    if deepest == "year":
        return "wrong_full_name"
    if car is not None and agrees(answer.vehicle, car):
        return "right"
    return f"wrong_{deepest}"


class Groups:
    """Outcomes by group, in the order of their addition."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[GroupOf, str], list[str]] = {}

    def add(self, pictures: UnknownPictures, answers: Sequence[Prediction], makes: set[str]) -> None:
        """Count the answers to a set; `makes` are the makes of the model's classes."""
        for answer, car, kind in zip(answers, pictures.cars, pictures.kinds, strict=True):
            outcome = _outcome(answer, car)
            if car is None:
                self._add("no car", kind or pictures.dataset.name, outcome)
                continue
            self._add("cars", "all", outcome)
            known: GroupOf = "known make" if car.make in makes else "unknown make"
            self._add(known, f"of {'a' if known == 'known make' else 'an'} {known}", outcome)
            if kind:
                self._add("kind", kind, outcome)

    def _add(self, of: GroupOf, name: str, outcome: str) -> None:
        self._outcomes.setdefault((of, name), []).append(outcome)

    def figures(self) -> tuple[GroupFigures, ...]:
        """Return the shares of each group."""
        order: tuple[GroupOf, ...] = ("cars", "known make", "unknown make", "kind", "no car")
        found = sorted(self._outcomes.items(), key=lambda item: order.index(item[0][0]))
        names = ("wrong_full_name", "wrong_model", "wrong_make", "right", "unknown")
        return tuple(
            GroupFigures(
                name=name,
                of=of,
                images=len(outcomes),
                **{outcome: outcomes.count(outcome) / len(outcomes) for outcome in names},
            )
            for (of, name), outcomes in found
        )


def separation(
    known: Scores, unknown: Sequence[UnknownPictures], scores: Sequence[Scores], *, cars: bool
) -> Separation | None:
    """Return how well scores separate known cars from other cars, or from things other than cars.

    None if there are no such images.
    """
    chosen = [
        found.select(mask)
        for one, found in zip(unknown, scores, strict=True)
        if (mask := np.array([(car is not None) == cars for car in one.cars], np.bool_)).any()
    ]
    if not chosen:
        return None
    others = chosen[0]
    for more in chosen[1:]:
        others = others.concatenate(more)
    probability = (_best(known), _best(others))
    if known.familiarity is None or others.familiarity is None:
        found = auroc(*probability)
        return Separation(probability=found, familiarity=None, decision=found)
    familiarity = (known.familiarity.astype(np.float64), others.familiarity.astype(np.float64))
    decision = [
        np.minimum(_rank(probability[0], one), _rank(familiarity[0], other))
        for one, other in zip(probability, familiarity, strict=True)
    ]
    return Separation(
        probability=auroc(*probability), familiarity=auroc(*familiarity), decision=auroc(decision[0], decision[1])
    )


def _best(scores: Scores) -> NDArray[np.float64]:
    return np.asarray(scores.probabilities.max(axis=1), np.float64)


def _rank(known: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the known values that are smaller than each value."""
    return np.asarray(np.searchsorted(np.sort(known), values) / len(known), np.float64)
