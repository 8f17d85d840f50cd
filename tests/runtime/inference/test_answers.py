"""An answer is as specific as it is certain: year, model, make, unknown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twincar_edge.labels import parse_name
from twincar_edge.runtime.inference.answers import UNKNOWN, Hierarchy, agrees, certainty

NAMES = (
    "Audi S4 Sedan 2007",
    "Audi S4 Sedan 2012",
    "Audi TT Hatchback 2011",
    "BMW 3 Series Sedan 2012",
    "BMW 3 Series Wagon 2012",
    "BMW M3 Coupe 2012",
    "smart fortwo Convertible 2012",
)
CARS = Hierarchy(NAMES)


def row(*shares: float) -> NDArray[np.float32]:
    return np.array([*shares, *[0.0] * (len(NAMES) - len(shares))], np.float32)


def test_a_certain_class_is_named_in_full() -> None:
    found = CARS.answer(row(0.1, 0.8, 0.1), 0.7)
    assert (found.label, found.name, found.level) == (1, "Audi S4 Sedan 2012", "year")
    assert found.probability == pytest.approx(0.8)
    assert found.vehicle == parse_name("Audi S4 Sedan 2012")


def test_two_years_of_a_car_share_the_model_and_the_body_type_if_all_have_it() -> None:
    found = CARS.answer(row(0.45, 0.45, 0.1), 0.7)
    assert (found.label, found.name, found.level) == (None, "Audi S4 Sedan", "model")
    assert found.probability == pytest.approx(0.9)
    assert found.vehicle is not None and (found.vehicle.body_type, found.vehicle.year) == ("Sedan", None)


def test_two_body_types_of_a_car_share_only_the_model() -> None:
    found = CARS.answer(row(0.1, 0, 0, 0.4, 0.4, 0.1), 0.7)
    assert (found.name, found.level) == ("BMW 3 Series", "model")
    assert found.vehicle is not None and found.vehicle.body_type is None


def test_models_of_one_make_share_the_make() -> None:
    found = CARS.answer(row(0.3, 0, 0.4, 0.3), 0.7)
    assert (found.name, found.level, found.label) == ("Audi", "make", None)
    assert found.probability == pytest.approx(0.7)


def test_the_make_has_the_largest_sum_and_is_not_always_the_make_of_the_best_class() -> None:
    found = CARS.answer(row(0.2, 0.15, 0.2, 0.0, 0.0, 0.05, 0.4), 0.5)
    assert found.top5[0].name == NAMES[6]
    assert (found.name, found.level) == ("Audi", "make")


def test_below_the_threshold_at_every_level_the_answer_is_unknown_with_five_guesses() -> None:
    found = CARS.answer(row(0.2, 0.1, 0.1, 0.2, 0.1, 0.1, 0.2), 0.7)
    assert (found.label, found.name, found.level, found.vehicle) == (None, UNKNOWN, "unknown", None)
    assert found.probability == pytest.approx(0.2) and len(found.top5) == 5


def test_a_threshold_of_zero_names_the_best_class() -> None:
    assert CARS.answer(row(0.2, 0.15, 0.2, 0.15, 0.1, 0.1, 0.1), 0.0).label == 0


@pytest.mark.parametrize(
    ("names", "levels"),
    [
        (("BMW X5 SUV", "BMW X5 Coupe", "BMW Z4"), ("model", "BMW X5", "model")),
        (("cat", "dog", "bird"), ("make", UNKNOWN, "unknown")),
        (("Fiat Sedan 2001", "Fiat Coupe 2001", "Fiat"), ("year", "Fiat", "make")),
    ],
)
def test_names_without_year_or_model_have_the_level_of_their_parts(
    names: tuple[str, ...], levels: tuple[str, str, str]
) -> None:
    hierarchy = Hierarchy(names)
    whole = hierarchy.answer(np.array([0.9, 0.1, 0.0], np.float32), 0.7)
    assert (whole.label, whole.name, whole.level) == (0, names[0], levels[0])
    unsure = hierarchy.answer(np.array([0.5, 0.5, 0.0], np.float32), 0.7)
    assert (unsure.name, unsure.level) == levels[1:]


@given(st.integers(0, 2**32 - 1), st.floats(0.51, 1.0))
def test_levels_do_not_contradict_one_another_above_one_half(seed: int, threshold: float) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.full(len(NAMES), 0.3)).astype(np.float32)
    found = CARS.answer(shares, threshold)
    sums = {name: float(shares[[n.startswith(name) for n in NAMES]].sum()) for name in ("Audi", "BMW", "smart")}
    best = max(sums, key=lambda name: sums[name])
    if found.vehicle is None:
        assert sums[best] < threshold + 1e-6
    else:
        assert found.vehicle.make == best and found.probability >= threshold
        assert found.probability == pytest.approx(CARS.probability(found.vehicle, shares), abs=1e-6)


def test_sums_are_equal_for_single_rows_and_batches() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(len(NAMES)), 9).astype(np.float32)
    for groups in (CARS.model, CARS.make):
        assert np.array_equal(groups.sums(shares), np.stack([groups.sums(one) for one in shares]))
        for place, name in enumerate(groups.names):
            assert groups.sums(shares)[:, place] == pytest.approx(shares[:, groups.of_class == place].sum(axis=1))
            assert all(agrees(name, parse_name(NAMES[label])) for label in np.flatnonzero(groups.of_class == place))


@pytest.mark.parametrize(
    ("said", "agreed"),
    [
        ("BMW", True),
        ("BMW 3 Series", True),
        ("BMW 3 Series Sedan", True),
        ("BMW 3 Series Sedan 2012", True),
        ("BMW 3 Series Sedan 2013", False),
        ("BMW 3 Series Wagon", False),
        ("BMW M3", False),
        ("Audi", False),
    ],
)
def test_an_answer_agrees_with_a_car_if_all_its_parts_are_true(said: str, agreed: bool) -> None:
    assert agrees(parse_name(said), parse_name("BMW 3 Series Sedan 2012")) is agreed


def test_a_name_without_classes_has_probability_zero() -> None:
    assert CARS.probability(parse_name("Tesla Model S"), row(1.0)) == 0
    assert CARS.probability(parse_name("BMW"), row(0.25, 0, 0, 0.25, 0.25, 0.25)) == pytest.approx(0.75)


def test_no_probability_stands_for_an_unknown_answer_but_its_rejected_guess() -> None:
    found = CARS.answer(row(0.5, 0.1, 0, 0.4), 0.9)
    assert (found.name, certainty(found)) == (UNKNOWN, "rejected guess: Audi S4 Sedan 2007 50%")
    assert certainty(CARS.answer(row(0.96, 0.04), 0.9), decimals=1) == "96.0%"
