"""A thread that fails is restarted, counted and reported."""

from __future__ import annotations

import pytest

from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.supervised import STEADY_S, SupervisedThread


def test_failing_work_is_restarted_until_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    now, runs = [0.0], []

    def work() -> None:
        runs.append(now[0])
        if len(runs) < 6:
            raise ZeroDivisionError("a defect")

    thread = SupervisedThread(work, "worker", pause=lambda _s: None, clock=lambda: now[0])
    thread.start()
    thread.join(20)
    assert (len(runs), thread.failures) == (6, 5)
    assert thread.problem is not None
    assert "'worker' failed" in thread.problem
    assert "ZeroDivisionError: a defect" in thread.problem
    assert len(caplog.records) == 3  # the 1st, 2nd and 4th failure
    now[0] += STEADY_S
    assert thread.problem is None


def test_the_delays_between_restarts_grow() -> None:
    pauses: list[float] = []

    def work() -> None:
        if len(pauses) < 5:
            raise ValueError

    thread = SupervisedThread(work, "worker", pause=pauses.append, backoff=Backoff(1.0, 8.0, draw=lambda: 1.0))
    thread.start()
    thread.join(20)
    assert pauses == [1, 2, 4, 8, 8]


def test_failing_work_is_not_restarted_once_the_run_has_ended() -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(len(runs))
        raise ValueError

    thread = SupervisedThread(work, "worker", pause=lambda _s: None, wanted=lambda: len(runs) < 3)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert len(runs) == 3
