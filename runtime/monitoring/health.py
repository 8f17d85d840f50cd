"""The health check of a running loop, for `/healthz`, Docker and systemd's watchdog."""

from __future__ import annotations

from twincar_edge.records import Record, Settings
from twincar_edge.runtime.monitoring.status import CameraStatus, LoopStatus
from twincar_edge.runtime.quantities import Duration
from twincar_edge.wording import titled


class HealthLimits(Settings):
    """Maximum age of a live camera's newest frame, and of a thread's work, in seconds.

    The frame of a polled camera may be older, up to `CameraStatus.late_after_s`, as long as the camera is not lost.
    `turn_age_s` limits the answering thread's last cycle and each camera's work on one frame. A detector on a small
    machine takes seconds for that.
    """

    frame_age_s: Duration = 30.0
    turn_age_s: Duration = 30.0


class Health(Record):
    """The result of `/healthz`.

    Attributes:
        healthy: there are no problems.
        alive: the answering thread and the cameras' threads make progress, whether frames come or not. If false, only a
            restart helps, so the watchdog restarts the service. A restart does not repair a camera.
        problems: one line per problem, without secrets.
        cameras: each camera's state.
        degraded: one line per fault that does not stop the loop: a sink that cannot write to its disk, a restarted
            thread.
        notes: what a camera ignores, with the parameter that changes it; not problems.
    """

    healthy: bool
    alive: bool
    problems: tuple[str, ...]
    cameras: dict[str, str]
    degraded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_health(status: LoopStatus, limits: HealthLimits) -> Health:
    """Check a snapshot.

    A sink that cannot reach another machine is not a problem: its events are queued on disk, and its metrics show it.
    """
    answers = status.turn_age_s <= limits.turn_age_s
    stalled = () if answers else (f"answering thread stalled for {status.turn_age_s:.0f} s",)
    camera_problems = [problem for camera in status.cameras if (problem := camera_problem(camera, limits)) is not None]
    return Health(
        healthy=answers and not camera_problems,
        alive=answers and not any(_is_stalled(camera, limits) for camera in status.cameras),
        problems=(*stalled, *camera_problems),
        cameras={camera.name: camera.state for camera in status.cameras},
        degraded=(
            *(f"sink {sink.name}: {sink.problem}" for sink in status.sinks if sink.local and sink.problem is not None),
            *status.faults,
        ),
        notes=tuple(f"{titled('camera', camera.name)}: {note}" for camera in status.cameras for note in camera.notes),
    )


def camera_problem(camera: CameraStatus, limits: HealthLimits) -> str | None:
    """Return a camera's problem as a line, or None."""
    name = titled("camera", camera.name)
    reason = f": {camera.problem}" if camera.problem else ""
    if camera.state == "failed":
        return f"{name} failed{reason}"
    if _is_stalled(camera, limits):
        return f"thread of {name} stalled for {camera.busy_s:.0f} s"
    if not camera.live:  # a watched folder may be quiet for days, but not away
        return f"{name} is waiting for its source{reason}" if camera.state == "reconnecting" else None
    if camera.frame_age_s is None:
        return f"no frame from {name} yet{reason}"
    longest_s = max(limits.frame_age_s, camera.late_after_s if camera.state == "running" else 0.0)
    if camera.frame_age_s > longest_s:
        return f"no frame from {name} for {camera.frame_age_s:.0f} s{reason}"
    return None


def _is_stalled(camera: CameraStatus, limits: HealthLimits) -> bool:
    """Return whether the camera's thread hangs in one frame, for example in the detector."""
    return camera.busy_s is not None and camera.busy_s > limits.turn_age_s
