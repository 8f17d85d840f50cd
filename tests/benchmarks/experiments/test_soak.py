"""The soak test reports losses, leaks, failures and growth of a run; a short one runs a real process."""

from __future__ import annotations

import shutil

import pytest

from tests.support.servers import skip_or_fail
from twincar_edge.benchmarks.experiments.soak import Soak, measure_soak
from twincar_edge.errors import GateError
from twincar_edge.machine import this_machine

GOOD = Soak(
    machine=this_machine(), seed=0, seconds=60, disk_filled=True, clock_jumped=True, lives=(), visits=3, safe=2,
    arrived={"mqtt": 3}, missing={"mqtt": ()}, repeated={"mqtt": 1}, misordered={"mqtt": 0},
    interrupted=1, leaked=(), restarted=(), problems=(), log_lines=9, growth_percent=4.9,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missing": {"mqtt": ("a", "b")}}, "2 safe visits did not reach mqtt"),
        ({"misordered": {"mqtt": 1}}, "1 visits reached mqtt out of order"),
        ({"leaked": ("camera",)}, "the secret of the camera"),
        ({"restarted": ("the thread 'mqtt' failed",)}, "the thread 'mqtt' failed"),
        ({"problems": ("4 events wait in mqtt",)}, "4 events wait in mqtt"),
        ({"growth_percent": 5.1}, "resident memory grew by 5.1%"),
    ],
)
def test_losses_leaks_failures_and_growth_are_errors(change: dict[str, object], message: str) -> None:
    GOOD.check(5)
    with pytest.raises(GateError, match=message):
        GOOD.model_copy(update=change).check(5)


@pytest.mark.slow
def test_a_minute_of_faults_and_kills_loses_no_events() -> None:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None:
        skip_or_fail("Mosquitto is not installed")
    found = measure_soak(duration_s=60, life_s=15, seed=3)
    assert len(found.lives) >= 3
    assert found.safe > 0
    found.check(most_percent=20)  # short lives are compared at different ages
