"""Visits against the ground truth: each way to be right or wrong has its own verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping, parse_name
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.truth import Pass, read_truth, score_visits

CLASSES = ClassMapping(("Castor Vela Sedan 2019", "Pollux Vela Sedan 2019"))
FIRST, SECOND = CLASSES.names


def visit(name: str, first_frame: int, last_frame: int) -> Event:
    now = "2025-01-01T00:00:00Z"
    vehicle = None if name == "unknown" else parse_name(name)
    level = "unknown" if vehicle is None else "year" if vehicle.year else "model" if vehicle.model else "make"
    return Event.model_validate_json(
        json.dumps(
            {
                "type": "end", "camera": "gate", "level": level,
                "id": f"{name}-{first_frame}", "source": "clip", "name": name, "probability": 0.9,
                "make": vehicle and vehicle.make, "model": (vehicle and vehicle.model) or None,
                "body_type": vehicle and vehicle.body_type, "year": vehicle and vehicle.year,
                "top5": [], "crops": 3, "direction": "none",
                "first_time_s": 0, "last_time_s": 1, "first_frame": first_frame, "last_frame": last_frame,
                "best_frame": first_frame, "box_xyxy": [0, 0, 1, 1], "started_at": now, "ended_at": now,
                "classifier": {"name": "m", "sha256": "0", "precision": "fp32", "ep": "cpu"},
            }
        )
    )  # fmt: skip


def test_each_pass_gets_its_verdict() -> None:
    passes = [Pass(FIRST, 0, 50), Pass(FIRST, 100, 150), Pass(SECOND, 200, 250), Pass(SECOND, 300, 350)]
    visits = [visit(FIRST, 3, 48), visit(SECOND, 101, 149), visit(SECOND, 300, 320), visit(SECOND, 325, 350)]
    score = score_visits(passes, [*visits, visit(FIRST, 400, 420)])
    assert [result.verdict for result in score.passes] == ["right", "wrong name", "missed", "doubled"]
    assert len(score.extra) == 1
    assert score.right == pytest.approx(1 / 5)
    assert score.summary() == ("1 of 4 passes right, 1 wrong; 2 found exactly once, 1 missed, 1 doubled, 1 extra")


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        (FIRST, "right"),
        ("Castor Vela Sedan", "coarser"),
        ("Castor Vela", "coarser"),
        ("Castor", "coarser"),
        ("Pollux", "wrong name"),
        ("Castor Vega", "wrong name"),
        ("Castor Vela Sedan 2020", "wrong name"),
        ("unknown", "unknown"),
    ],
)
def test_a_correct_but_less_specific_name_is_coarser_and_not_wrong(name: str, verdict: str) -> None:
    score = score_visits([Pass(FIRST, 0, 50)], [visit(name, 0, 50)])
    assert score.passes[0].verdict == verdict
    assert score.right == (verdict == "right")


def test_the_summary_omits_verdicts_with_a_count_of_zero() -> None:
    passes = [Pass(FIRST, start, start + 50) for start in (0, 100, 200, 300)]
    names = (FIRST, "Castor", SECOND, "unknown")
    score = score_visits(
        passes, [visit(name, start, start + 50) for name, start in zip(names, (0, 100, 200, 300), strict=True)]
    )
    assert score.summary() == (
        "1 of 4 passes right, 1 right but coarser, 1 wrong, 1 unknown; "
        "4 found exactly once, 0 missed, 0 doubled, 0 extra"
    )
    assert score_visits(passes[:1], [visit(FIRST, 0, 50)]).summary() == (
        "1 of 1 passes right; 1 found exactly once, 0 missed, 0 doubled, 0 extra"
    )


def test_visits_of_two_vehicles_in_view_are_assigned_to_the_right_passes() -> None:
    passes = [Pass(FIRST, 0, 60), Pass(SECOND, 30, 90)]
    score = score_visits(passes, [visit(SECOND, 32, 90), visit(FIRST, 1, 60)])
    assert [result.verdict for result in score.passes] == ["right", "right"]


def test_no_visits_without_passes_is_not_a_success() -> None:
    assert score_visits([], []).right == 0.0
    assert score_visits([Pass(FIRST, 0, 9)], []).right == 0.0


def test_names_come_from_the_file_or_from_the_label(tmp_path: Path) -> None:
    path = tmp_path / "clip.json"
    path.write_text(
        json.dumps(
            {
                "fps": 25,
                "passes": [
                    {"label": 1, "first_frame": 5, "last_frame": 9, "lane": 0},
                    {"label": 0, "name": "Other Car 2000", "first_frame": 15, "last_frame": 19},
                ],
            }
        )
    )
    assert read_truth(path, CLASSES) == [Pass(SECOND, 5, 9), Pass("Other Car 2000", 15, 19)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "passes: Field required"),
        ('{"passes": [{"label": -1, "first_frame": 0, "last_frame": 1}]}', "passes.0.label"),
        ('{"passes": [{"label": 7, "first_frame": 0, "last_frame": 1}]}', "label 7, but the model has 2 classes"),
    ],
)
def test_an_invalid_ground_truth_file_is_a_one_line_error(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "clip.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as failure:
        read_truth(path, CLASSES)
    assert "\n" not in str(failure.value)


def test_a_missing_ground_truth_file_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the ground truth"):
        read_truth(tmp_path / "absent.json", CLASSES)
