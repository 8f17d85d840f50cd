"""Health: what is wrong is named, and only what a new start would mend counts as not alive."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twincar_edge.runtime.monitoring.health import HealthLimits, check_health
from twincar_edge.runtime.monitoring.status import CameraStatus, LoopStatus, ModelStatus, SinkStatus

LIMITS = HealthLimits(frame_age_s=10, turn_age_s=5)
RUNNING = CameraStatus("gate", live=True, state="running", frames=100, frame_age_s=0.1)
WELL = LoopStatus((RUNNING,), ModelStatus("tiny", "0" * 64, "fp32", "cpu"), turn_age_s=0.2)


def test_a_loop_whose_cameras_give_frames_and_whose_model_answers_is_healthy() -> None:
    health = check_health(WELL, LIMITS)
    assert health.healthy
    assert health.alive
    assert health.problems == ()
    assert health.cameras == {"gate": "running"}


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        (replace(RUNNING, frame_age_s=10.5), "camera gate has given no frame for 10 s"),
        (replace(RUNNING, frame_age_s=None), "camera gate has given no frame yet"),
        (
            replace(RUNNING, frame_age_s=None, state="opening", problem="connection refused"),
            "camera gate has given no frame yet: connection refused",
        ),
        (replace(RUNNING, live=False, state="failed", problem="no such file"), "camera gate has failed: no such file"),
    ],
)
def test_a_camera_that_gives_nothing_is_named_and_no_reason_for_a_new_start(camera: CameraStatus, said: str) -> None:
    health = check_health(replace(WELL, cameras=(replace(RUNNING, name="yard"), camera)), LIMITS)
    assert not health.healthy
    assert health.alive
    assert health.problems == (said,)


def test_what_a_camera_leaves_out_is_said_and_no_problem() -> None:
    note = "37 moving things were smaller than `min_area=0.01`"
    health = check_health(replace(WELL, cameras=(replace(RUNNING, notes=(note,)),)), LIMITS)
    assert health.healthy
    assert health.notes == (f"camera gate: {note}",)


@pytest.mark.parametrize("state", ["opening", "running", "ended"])
def test_a_file_that_gives_no_frames_any_more_is_no_problem(state: str) -> None:
    file = CameraStatus("clip", live=False, state=state, frame_age_s=3600.0)  # type: ignore[arg-type]
    assert check_health(replace(WELL, cameras=(file,)), LIMITS).healthy


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (replace(WELL, turn_age_s=6.0), "the answering thread has not turned for 6 s"),
        (
            replace(WELL, model=replace(WELL.model, problem="logits that are not finite")),
            "the model does not answer: logits that are not finite",
        ),
    ],
)
def test_a_loop_that_does_not_turn_or_answer_is_neither_healthy_nor_alive(broken: LoopStatus, said: str) -> None:
    health = check_health(broken, LIMITS)
    assert not health.healthy
    assert not health.alive
    assert health.problems == (said,)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    dark = replace(RUNNING, name="yard", frame_age_s=None)
    health = check_health(replace(WELL, turn_age_s=60.0, cameras=(RUNNING, dark)), LIMITS)
    assert len(health.problems) == 2


def test_a_sink_that_cannot_deliver_leaves_the_loop_healthy() -> None:
    assert check_health(replace(WELL, sinks=(SinkStatus("mqtt", spooled=12, problem="no broker"),)), LIMITS).healthy


def test_what_fails_on_this_machine_is_named_and_no_reason_for_a_new_start() -> None:
    sinks = (
        SinkStatus("store", problem="disk is full", local=True),
        SinkStatus("webhook", problem="no answer in time"),
        SinkStatus("crops", local=True),
    )
    health = check_health(replace(WELL, sinks=sinks, faults=("the thread 'reload' failed",)), LIMITS)
    assert (health.healthy, health.alive) == (True, True)
    assert health.degraded == ("sink store: disk is full", "the thread 'reload' failed")
