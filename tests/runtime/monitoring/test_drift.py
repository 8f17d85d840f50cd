"""Drift windows: the last hour and the week before, per camera, in constant memory."""

from __future__ import annotations

import pytest

from tests.support.event_toys import visit
from twincar_edge.runtime.monitoring.drift import BASELINE, RECENT, AnswerWindow, AnswerWindows

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


def test_windows_cover_the_last_hour_and_the_week_before_and_drop_older_visits() -> None:
    windows = AnswerWindows()
    now_s = 30 * DAY_S
    windows.add(visit(level="unknown", probability=0.9, familiarity=0.1), now_s - 8 * DAY_S)
    for age_s in (6 * DAY_S, 2 * HOUR_S):
        windows.add(visit(probability=0.9, familiarity=0.7), now_s - age_s)
    windows.add(visit(level="unknown", probability=0.3, familiarity=0.4), now_s - 0.5 * HOUR_S)
    windows.add(visit(probability=0.9, familiarity=None), now_s)
    found = windows.windows(now_s)
    assert found["gate", RECENT] == AnswerWindow(2, 0.5, 0.4, pytest.approx(0.6))
    assert found["gate", BASELINE] == AnswerWindow(2, 0.0, pytest.approx(0.7), pytest.approx(0.9))


def test_both_windows_are_empty_after_a_week_without_visits() -> None:
    windows = AnswerWindows()
    windows.add(visit(camera="yard"), 0.0)
    empty = AnswerWindow(0, None, None, None)
    assert windows.windows(9 * DAY_S) == {("yard", RECENT): empty, ("yard", BASELINE): empty}


def test_clearing_removes_all_visits() -> None:
    windows = AnswerWindows()
    windows.add(visit(), 0.0)
    windows.clear()
    assert windows.windows(0.0) == {}
