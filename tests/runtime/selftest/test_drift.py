"""Doctor on a store: a camera whose answers became worse is named, and chance is not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.support.event_toys import CROP, visit
from twincar_edge.runtime.events import ClassifierRecord, Event
from twincar_edge.runtime.selftest.diagnosis import Check
from twincar_edge.runtime.selftest.drift import check_drift
from twincar_edge.runtime.sinks.store import EventStore

NOW = datetime(2025, 6, 20, 12, tzinfo=UTC)


def day(
    age: int, count: int, unknown: float, familiarity: float = 0.6, camera: str = "gate", model: str = "0"
) -> Iterator[Event]:
    """Visits of one day, `age` days ago: so many, this share of them unknown, familiarity scattered by 0.1."""
    random = np.random.default_rng(abs(age))
    for number in range(count):
        yield visit(
            id=f"{camera}-{age}-{number}",
            camera=camera,
            level="unknown" if number < round(unknown * count) else "year",
            familiarity=float(familiarity + random.normal(0, 0.1)),
            started_at=NOW - timedelta(days=age, seconds=60 + number),
            classifier=ClassifierRecord(name="tiny", sha256=model * 64, precision="fp32", ep="cpu"),
        )


def examine(path: Path, *days: Iterator[Event]) -> list[Check]:
    with EventStore(path) as store:
        for events in days:
            for event in events:
                store.write(event, CROP)
    return check_drift(path, NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite"


def test_a_camera_whose_unknown_share_rose_is_named_and_the_other_is_not(path: Path) -> None:
    steady = [day(age, 120, 0.2, camera="yard") for age in range(3)]
    gate, yard = examine(path, day(0, 120, 0.4), day(1, 120, 0.2), day(2, 120, 0.25), *steady)
    assert (gate.name, gate.status) == ("visits of gate", "warn")
    assert gate.found.startswith("40% of 120 unknown in the last 24 h against 22% of 240 in the 14 days before")
    assert "has the camera been moved" in gate.advice
    assert (yard.name, yard.status) == ("visits of yard", "ok")
    assert yard.found.endswith("nothing unusual")


def test_a_fall_of_familiarity_alone_is_named(path: Path) -> None:
    (check,) = examine(path, day(0, 120, 0.2, familiarity=0.5), day(1, 120, 0.2), day(2, 120, 0.2))
    assert check.status == "warn"
    assert "mean familiarity 0.50" in check.found


def test_fewer_unknown_cars_and_more_familiar_ones_are_no_reason_to_look(path: Path) -> None:
    (check,) = examine(path, day(0, 120, 0.1, familiarity=0.8), day(1, 120, 0.4), day(2, 120, 0.4))
    assert check.status == "ok"


def test_a_small_change_that_many_visits_prove_does_not_matter(path: Path) -> None:
    (check,) = examine(path, day(0, 1000, 0.26), day(1, 1000, 0.2), day(2, 1000, 0.2))
    assert check.status == "ok"


def test_a_day_like_the_worst_of_days_that_differ_is_nothing_unusual(path: Path) -> None:
    shares = (0.1, 0.4, 0.15, 0.35, 0.1, 0.4)
    (check,) = examine(path, day(0, 120, 0.4), *(day(age, 120, share) for age, share in enumerate(shares, 1)))
    assert check.status == "ok"


def test_a_quiet_camera_gets_more_than_a_day_until_there_are_enough_visits(path: Path) -> None:
    quiet = [day(age, 40, 0.5 if age < 3 else 0.2) for age in range(7)]
    (check,) = examine(path, *quiet)
    assert check.status == "warn"
    assert "50% of 120 unknown in the last 3 days against 20% of 160" in check.found


@pytest.mark.parametrize("earlier", [[(1, 50, "0")], [(1, 200, "1"), (2, 200, "1")]], ids=["few", "another model"])
def test_too_few_visits_to_compare_says_how_many_it_takes(path: Path, earlier: list[tuple[int, int, str]]) -> None:
    (check,) = examine(path, day(0, 120, 0.9), *(day(age, count, 0.1, model=model) for age, count, model in earlier))
    assert check.status == "ok"
    assert check.found.endswith("too few to compare, 100 are needed on either side")


def test_visits_of_a_clock_that_ran_ahead_do_not_move_the_days(path: Path) -> None:
    days = [day(0, 120, 0.4), day(1, 120, 0.2), day(2, 120, 0.2)]
    (check,) = examine(path, *days, day(-3000, 1, 0.0))
    assert check.status == "warn"


def test_an_empty_store_and_a_missing_one_are_rows(path: Path) -> None:
    (missing,) = check_drift(path, NOW)
    assert missing.status == "fail"
    assert "no store" in missing.found
    (empty,) = examine(path)
    assert (empty.status, empty.found) == ("ok", f"the store {path} holds none")
