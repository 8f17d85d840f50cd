"""Thresholds chosen on unknown pictures meet their limits, on other cars too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from twincar_edge.errors import InputError
from twincar_edge.export import ConfidenceOptions
from twincar_edge.export.open_set.choose import UnknownScores, check_enough, choose, upper_bound
from twincar_edge.export.open_set.limits import Limits
from twincar_edge.export.open_set.scores import Scores
from twincar_edge.labels import VehicleName, parse_name
from twincar_edge.runtime.inference.answers import Hierarchy, agrees

NAMES = ("Alfa Uno Sedan 2010", "Alfa Uno Sedan 2012", "Alfa Due Coupe 2010", "Beta Tre SUV 2011")
HIERARCHY = Hierarchy(NAMES)
CARS = [parse_name(f"{make} Model{number}") for number, make in enumerate(("Alfa", "Beta", "Gamma", "Delta") * 5)]


def scores(rng: np.random.Generator, images: int, familiar: float, sure: float = 6) -> tuple[Scores, NDArray[np.int64]]:
    """Return scores of pictures with a familiarity near `familiar`, and their labels, which most answers match."""
    labels = rng.integers(0, len(NAMES), images)
    logits = rng.normal(0, 1, (images, len(NAMES)))
    logits[np.arange(images), labels] += rng.uniform(0, sure, images)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    familiarity = rng.normal(familiar, 0.05, images).clip(-2, 1)
    return Scores(shares.astype(np.float32), familiarity.astype(np.float32), np.full(images, 100)), labels


def unknown(rng: np.random.Generator, images: int, cars: Sequence[VehicleName | None] = CARS) -> UnknownScores:
    found, _ = scores(rng, images, 0.6)
    return UnknownScores(found, [cars[n % len(cars)] for n in range(images)])


@pytest.mark.parametrize("limits", [Limits(0.02, 0.1), Limits(0.05, 0.05), Limits(0.1, 0.3)])
def test_chosen_thresholds_meet_both_limits_in_inference(rng: np.random.Generator, limits: Limits) -> None:
    known, labels = scores(rng, 400, 0.7)
    others = unknown(rng, 600)
    found = choose(known, labels, others, HIERARCHY, limits)
    assert found.thresholds is not None
    answers = [
        HIERARCHY.answer(row, found.reject_below, familiar, found.thresholds) for row, familiar in others.scores.rows()
    ]
    names = np.array([answer.label is not None for answer in answers])
    claims = np.array(
        [
            answer.vehicle is not None and (answer.label is not None or car is None or not agrees(answer.vehicle, car))
            for answer, car in zip(answers, others.cars, strict=True)
        ]
    )
    assert (found.wrong_names, found.wrong_claims) == pytest.approx((names.mean(), claims.mean()))
    assert upper_bound(names, others.groups()) <= limits.names
    assert upper_bound(claims, others.groups()) <= limits.claims
    assert found.wrong_names > limits.names / 4  # the limit is not met by naming nothing


def test_higher_limits_name_more_images(rng: np.random.Generator) -> None:
    known, labels = scores(rng, 400, 0.7)
    others = unknown(rng, 600)
    named = []
    for share in (0.02, 0.05, 0.2):
        found = choose(known, labels, others, HIERARCHY, Limits(share, share))
        assert found.thresholds is not None
        assert known.familiarity is not None
        sure = known.probabilities.max(axis=1) >= found.reject_below
        named.append(float((sure & (known.familiarity >= found.thresholds.year)).mean()))
    assert named == sorted(named) and named[0] < named[-1]


def test_the_limits_hold_for_unseen_car_models(rng: np.random.Generator) -> None:
    """The familiarity of unknown cars varies by car model; the bound has a margin for that."""
    known, labels = scores(rng, 400, 0.72)
    limits = Limits(0.05, 0.08)
    shares = []
    for _ in range(10):
        halves = []
        for models in (12, 100):  # to choose the thresholds, and to measure them
            cars = [VehicleName("Gamma", f"{models}-{number}", None, None) for number in range(models)]
            found = unknown(rng, 20 * models, cars)
            assert found.scores.familiarity is not None
            lift = rng.normal(0, 0.03, models)[np.arange(20 * models) % models]
            lifted = Scores(
                found.scores.probabilities, (found.scores.familiarity + lift).astype(np.float32), found.scores.sides_px
            )
            halves.append(UnknownScores(lifted, found.cars))
        chosen = choose(known, labels, halves[0], HIERARCHY, limits)
        assert chosen.thresholds is not None
        rows = halves[1].scores.rows()
        answers = [HIERARCHY.answer(row, chosen.reject_below, familiar, chosen.thresholds) for row, familiar in rows]
        shares.append(np.mean([answer.label is not None for answer in answers]))
    assert np.mean(shares) <= limits.names
    assert np.mean(np.array(shares) <= limits.names) >= 0.8


def test_without_familiarity_the_probability_threshold_decides(rng: np.random.Generator) -> None:
    known, labels = scores(rng, 300, 0.7)
    found, _ = scores(rng, 400, 0.6, sure=4)
    others = UnknownScores(Scores(found.probabilities, None, found.sides_px), [None] * 400)
    chosen = choose(Scores(known.probabilities, None, known.sides_px), labels, others, HIERARCHY, Limits(0.2, 0.25))
    assert chosen.thresholds is None
    assert 0.5 <= chosen.reject_below < 1
    assert chosen.wrong_names <= 0.2 and chosen.wrong_claims <= 0.25
    certain = UnknownScores(
        Scores(np.eye(4, dtype=np.float32)[np.arange(400) % 4], None, np.full(400, 100)), [None] * 400
    )
    with pytest.raises(InputError, match=r"no probability threshold limits wrong full names to 20\.0%"):
        choose(Scores(known.probabilities, None, known.sides_px), labels, certain, HIERARCHY, Limits(0.2, 0.25))


def test_the_bound_is_wilsons_bound_and_wider_for_correlated_images(rng: np.random.Generator) -> None:
    wrong = np.arange(200) < 10
    alone = np.arange(200)
    z = 1.2815515655446004
    center, spread = 0.05 + z**2 / 400, z * math.sqrt(0.05 * 0.95 / 200 + z**2 / (4 * 200**2))
    assert upper_bound(wrong, alone) == pytest.approx((center + spread) / (1 + z**2 / 200), rel=2e-3)
    assert upper_bound(wrong, alone // 10) > upper_bound(wrong, alone)
    assert upper_bound(wrong, rng.permutation(alone) // 10) == pytest.approx(upper_bound(wrong, alone), abs=0.02)
    assert 0 < upper_bound(np.zeros(50, np.bool_), np.arange(50)) < 0.05
    one_car = np.zeros(50, np.int64)
    assert (
        upper_bound(np.zeros(50, np.bool_), one_car) == upper_bound(np.zeros(1, np.bool_), np.zeros(1, np.int64)) > 0.5
    )
    assert upper_bound(np.ones(5, np.bool_), np.zeros(5, np.int64)) == pytest.approx(1)


def test_too_few_images_cannot_show_a_limit() -> None:
    with pytest.raises(
        InputError, match=r"31 unknown images cannot show that at most 5\.0% get a wrong name: give 32 or"
    ):
        check_enough(31, Limits(0.05, 0.08))
    check_enough(32, Limits(0.05, 0.08))
    assert (
        upper_bound(np.zeros(32, np.bool_), np.arange(32)) <= 0.05 < upper_bound(np.zeros(31, np.bool_), np.arange(31))
    )
    with pytest.raises(InputError, match="no number of images"):
        check_enough(10**6, Limits(0, 0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_wrong_names": 0.05}, "must be set together"),
        ({"max_wrong_names": 0.1, "max_wrong_claims": 0.05}, "must be max_wrong_names or more"),
        ({"max_wrong_names": 0.05, "max_wrong_claims": 0.08}, "need images"),
        ({"max_wrong_names": 5, "max_wrong_claims": 8, "unknown": Path("x")}, "less than or equal to 1"),
    ],
)
def test_invalid_limits_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ConfidenceOptions.model_validate(options)
