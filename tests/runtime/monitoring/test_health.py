"""Health checks list every problem; only problems that a restart fixes make the process not alive."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twincar_edge.runtime.monitoring.health import HealthLimits, check_health
from twincar_edge.runtime.monitoring.status import CameraStatus, LoopStatus, ModelStatus, SinkStatus

LIMITS = HealthLimits(frame_age_s=10, turn_age_s=5)
RUNNING = CameraStatus("gate", live=True, state="running", frames=100, frame_age_s=0.1)
WELL = LoopStatus((RUNNING,), ModelStatus("tiny", "0" * 64, "fp32", "cpu"), turn_age_s=0.2)


def test_a_loop_with_frames_and_a_working_model_is_healthy() -> None:
    health = check_health(WELL, LIMITS)
    assert health.healthy
    assert health.alive
    assert health.problems == ()
    assert health.cameras == {"gate": "running"}


@pytest.mark.parametrize(
    ("camera", "reported"),
    [
        (replace(RUNNING, frame_age_s=10.5), "no frame from camera gate for 10 s"),
        (replace(RUNNING, busy_s=4.9, frame_age_s=10.5), "no frame from camera gate for 10 s"),
        (replace(RUNNING, late_after_s=122.0, frame_age_s=122.5), "no frame from camera gate for 122 s"),
        (
            replace(RUNNING, late_after_s=122.0, frame_age_s=61.0, state="reconnecting", problem="no power"),
            "no frame from camera gate for 61 s: no power",
        ),
        (replace(RUNNING, frame_age_s=None), "no frame from camera gate yet"),
        (
            replace(RUNNING, frame_age_s=None, state="opening", problem="connection refused"),
            "no frame from camera gate yet: connection refused",
        ),
        (replace(RUNNING, live=False, state="failed", problem="no such file"), "camera gate failed: no such file"),
        (
            replace(RUNNING, live=False, state="reconnecting", problem="cannot list the folder inbox"),
            "camera gate is waiting for its source: cannot list the folder inbox",
        ),
    ],
)
def test_a_camera_without_frames_is_unhealthy_but_the_process_is_alive(camera: CameraStatus, reported: str) -> None:
    health = check_health(replace(WELL, cameras=(replace(RUNNING, name="yard"), camera)), LIMITS)
    assert not health.healthy
    assert health.alive
    assert health.problems == (reported,)


def test_a_polled_camera_is_healthy_until_its_next_picture_is_late() -> None:
    polled = replace(RUNNING, late_after_s=122.0, frame_age_s=121.5)
    assert check_health(replace(WELL, cameras=(polled,)), LIMITS).healthy


def test_notes_on_ignored_objects_are_not_problems() -> None:
    note = "37 moving things were smaller than `min_area=0.01`"
    health = check_health(replace(WELL, cameras=(replace(RUNNING, notes=(note,)),)), LIMITS)
    assert health.healthy
    assert health.notes == (f"camera gate: {note}",)


@pytest.mark.parametrize("state", ["opening", "running", "ended"])
def test_a_file_without_recent_frames_is_healthy(state: str) -> None:
    file = CameraStatus("clip", live=False, state=state, frame_age_s=3600.0)  # type: ignore[arg-type]
    assert check_health(replace(WELL, cameras=(file,)), LIMITS).healthy


def test_a_stalled_loop_is_neither_healthy_nor_alive() -> None:
    health = check_health(replace(WELL, turn_age_s=6.0), LIMITS)
    assert not health.healthy
    assert not health.alive
    assert health.problems == ("answering thread stalled for 6 s",)


@pytest.mark.parametrize("live", [True, False])
def test_a_camera_that_hangs_in_a_frame_is_neither_healthy_nor_alive(live: bool) -> None:
    health = check_health(replace(WELL, cameras=(replace(RUNNING, live=live, busy_s=6.0),)), LIMITS)
    assert (health.healthy, health.alive) == (False, False)
    assert health.problems == ("thread of camera gate stalled for 6 s",)


def test_health_lists_all_problems() -> None:
    dark = replace(RUNNING, name="yard", frame_age_s=None)
    health = check_health(replace(WELL, turn_age_s=60.0, cameras=(RUNNING, dark)), LIMITS)
    assert len(health.problems) == 2


def test_a_failing_remote_sink_leaves_the_loop_healthy() -> None:
    assert check_health(replace(WELL, sinks=(SinkStatus("mqtt", spooled=12, problem="no broker"),)), LIMITS).healthy


def test_local_faults_degrade_the_loop_but_leave_it_healthy() -> None:
    sinks = (
        SinkStatus("store", problem="disk is full", local=True),
        SinkStatus("webhook", problem="no answer in time"),
        SinkStatus("crops", local=True),
    )
    health = check_health(replace(WELL, sinks=sinks, faults=("the thread 'reload' failed",)), LIMITS)
    assert (health.healthy, health.alive) == (True, True)
    assert health.degraded == ("sink store: disk is full", "the thread 'reload' failed")
