"""Whether a running loop does its work: one judgement, for `/healthz`, for Docker and for systemd's watchdog."""

from __future__ import annotations

from pydantic import Field

from twincar_edge.records import Record
from twincar_edge.runtime.monitoring.status import CameraStatus, LoopStatus


class HealthLimits(Record):
    """How long a live camera may be without a frame, and the answering thread without a turn, in seconds."""

    frame_age_s: float = Field(default=30.0, gt=0)
    turn_age_s: float = Field(default=30.0, gt=0)


class Health(Record):
    """What `/healthz` answers.

    Attributes:
        healthy: nothing is wrong.
        alive: the process itself works, whatever its cameras do: the answering thread turns, and the model answers.
            Where it is false, only a new start helps, which is what a watchdog is for; a camera without current is not
            mended by one.
        problems: what is wrong, a line each; no secrets.
        cameras: each camera's state.
        degraded: what goes wrong on this machine although it watches on, a line each: a sink that cannot write to its
            disk, a thread that was started again.
        notes: what a camera leaves out, and the parameter that changes it; no problems.
    """

    healthy: bool
    alive: bool
    problems: tuple[str, ...]
    cameras: dict[str, str]
    degraded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_health(status: LoopStatus, limits: HealthLimits) -> Health:
    """Judge a snapshot.

    A sink that cannot deliver to another machine is no problem here: what it cannot deliver waits on disk, and its
    metrics say so.
    """
    inside = []
    if status.turn_age_s > limits.turn_age_s:
        inside.append(f"the answering thread has not turned for {status.turn_age_s:.0f} s")
    if status.model.problem is not None:
        inside.append(f"the model does not answer: {status.model.problem}")
    outside = [problem for camera in status.cameras if (problem := camera_problem(camera, limits)) is not None]
    return Health(
        healthy=not inside and not outside,
        alive=not inside,
        problems=(*inside, *outside),
        cameras={camera.name: camera.state for camera in status.cameras},
        degraded=(
            *(f"sink {sink.name}: {sink.problem}" for sink in status.sinks if sink.local and sink.problem is not None),
            *status.faults,
        ),
        notes=tuple(f"camera {camera.name}: {note}" for camera in status.cameras for note in camera.notes),
    )


def camera_problem(camera: CameraStatus, limits: HealthLimits) -> str | None:
    """Return what is wrong with a camera, in words, or None."""
    because = f": {camera.problem}" if camera.problem else ""
    if camera.state == "failed":
        return f"camera {camera.name} has failed{because}"
    if not camera.live:
        return None
    if camera.frame_age_s is None:
        return f"camera {camera.name} has given no frame yet{because}"
    if camera.frame_age_s > limits.frame_age_s:
        return f"camera {camera.name} has given no frame for {camera.frame_age_s:.0f} s{because}"
    return None
