"""Doctor on a store: a camera with worse answers is reported, and random variation is not."""

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
    """Visits of one day, `age` days ago, with this share of unknown, and familiarity with a deviation of 0.1."""
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


def test_only_the_camera_with_a_larger_share_of_unknown_is_reported(path: Path) -> None:
    steady = [day(age, 120, 0.2, camera="yard") for age in range(3)]
    gate, yard = examine(path, day(0, 120, 0.4), day(1, 120, 0.2), day(2, 120, 0.25), *steady)
    assert (gate.name, gate.status) == ("visits of gate", "warn")
    assert gate.found.startswith("40% of 120 unknown in the last 24 h, 22% of 240 in the 14 days before")
    assert "was the camera moved" in gate.advice
    assert (yard.name, yard.status) == ("visits of yard", "ok")
    assert yard.found.endswith("no drift")


def test_a_drop_in_familiarity_alone_is_reported(path: Path) -> None:
    (check,) = examine(path, day(0, 120, 0.2, familiarity=0.5), day(1, 120, 0.2), day(2, 120, 0.2))
    assert check.status == "warn"
    assert "mean familiarity 0.50" in check.found


def test_improvements_are_not_reported(path: Path) -> None:
    (check,) = examine(path, day(0, 120, 0.1, familiarity=0.8), day(1, 120, 0.4), day(2, 120, 0.4))
    assert check.status == "ok"


def test_a_small_but_significant_change_is_not_reported(path: Path) -> None:
    (check,) = examine(path, day(0, 1000, 0.26), day(1, 1000, 0.2), day(2, 1000, 0.2))
    assert check.status == "ok"


def test_a_change_within_the_usual_variation_between_days_is_not_reported(path: Path) -> None:
    shares = (0.1, 0.4, 0.15, 0.35, 0.1, 0.4)
    (check,) = examine(path, day(0, 120, 0.4), *(day(age, 120, share) for age, share in enumerate(shares, 1)))
    assert check.status == "ok"


def test_the_recent_period_is_extended_until_it_has_enough_visits(path: Path) -> None:
    quiet = [day(age, 40, 0.5 if age < 3 else 0.2) for age in range(7)]
    (check,) = examine(path, *quiet)
    assert check.status == "warn"
    assert "50% of 120 unknown in the last 3 days, 20% of 160" in check.found


@pytest.mark.parametrize("earlier", [[(1, 50, "0")], [(1, 200, "1"), (2, 200, "1")]], ids=["few", "another model"])
def test_too_few_visits_report_the_required_number(path: Path, earlier: list[tuple[int, int, str]]) -> None:
    (check,) = examine(path, day(0, 120, 0.9), *(day(age, count, 0.1, model=model) for age, count, model in earlier))
    assert check.status == "ok"
    assert check.found.endswith("too few to compare, each period needs 100")


def test_visits_with_times_in_the_future_are_ignored(path: Path) -> None:
    days = [day(0, 120, 0.4), day(1, 120, 0.2), day(2, 120, 0.2)]
    (check,) = examine(path, *days, day(-3000, 1, 0.0))
    assert check.status == "warn"


def test_an_empty_store_and_a_missing_one_are_rows(path: Path) -> None:
    (missing,) = check_drift(path, NOW)
    assert missing.status == "fail"
    assert "no store" in missing.found
    (empty,) = examine(path)
    assert (empty.status, empty.found) == ("ok", f"the store {path} has none")
