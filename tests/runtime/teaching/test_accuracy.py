"""Verdicts on answers at each level, and the accuracy computed from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from twincar_edge.runtime.events import Level
from twincar_edge.runtime.teaching.accuracy import Count, measure, verdict
from twincar_edge.runtime.teaching.corrections import Judgement, Kind

MOMENT = datetime(2026, 3, 1, tzinfo=UTC)
VELA = "Castor Vela Sedan 2019"


def judgement(
    answered: str, level: Level, truth: str | None, kind: Kind = "named", whole: bool | None = None, model: str = "a"
) -> Judgement:
    whole = level == "year" if whole is None else whole
    return Judgement("1", MOMENT, "anna", kind, truth, answered, level, whole, model)


@pytest.mark.parametrize(
    ("answered", "level", "truth", "expected"),
    [
        (VELA, "year", VELA, ("right", "right", "right")),
        (VELA, "year", "Castor Vela Sedan 2020", ("wrong", "right", "right")),
        (VELA, "year", "Castor Nova Sedan 2019", ("wrong", "wrong", "right")),
        (VELA, "year", "Pollux Nova Sedan 2019", ("wrong", "wrong", "wrong")),
        (VELA, "year", "Castor", ("undecided", "undecided", "right")),  # less specific, but consistent
        (VELA, "year", "Pollux", ("wrong", "wrong", "wrong")),
        (VELA, "year", None, ("wrong", "wrong", "wrong")),
        ("Castor Vela", "model", VELA, ("unanswered", "right", "right")),
        ("Castor", "make", VELA, ("unanswered", "unanswered", "right")),
        ("unknown", "unknown", VELA, ("unanswered", "unanswered", "unanswered")),
    ],
)
def test_verdicts_at_each_level_follow_from_answer_and_truth(
    answered: str, level: Level, truth: str | None, expected: tuple[str, str, str]
) -> None:
    one = judgement(answered, level, truth, "named" if truth else "no vehicle")
    assert tuple(verdict(one, at) for at in ("year", "model", "make")) == expected


def test_accuracy_counts_vehicles_and_names_per_model() -> None:
    judgements = [
        judgement(VELA, "year", VELA),
        judgement(VELA, "year", "Castor Vela Sedan 2020"),
        judgement("Castor", "make", "Castor"),
        judgement("unknown", "unknown", "Rigel Nova Sedan 2024"),
        judgement(VELA, "year", "Castor"),
        judgement(VELA, "year", None, "no vehicle"),
        judgement("unknown", "unknown", None, "no vehicle"),
        judgement(VELA, "year", None, "unclear"),
    ]
    later = judgement("Castor One", "model", "Castor One", whole=True, model="b")  # a class name without a year
    (newest, found) = measure([*judgements, Judgement(**{**vars(later), "at": MOMENT + timedelta(days=1)})])
    assert (newest.model_sha256, newest.right["year"], newest.wrong_names) == ("b", Count(1, 1), Count(0, 1))
    assert found.right == {"year": Count(1, 4), "model": Count(2, 4), "make": Count(4, 5)}
    assert found.wrong_names == Count(2, 4)
    assert (found.no_vehicle, found.unclear) == (2, 1)
    assert found.right["year"].interval == pytest.approx((0.0456, 0.6994), abs=1e-4)
    assert measure([]) == []
