"""A camera's status while it runs, and its summary at the end."""

from __future__ import annotations

from collections.abc import Mapping

from twincar_edge.runtime.loop.answering import Answering
from twincar_edge.runtime.loop.camera import CameraThread
from twincar_edge.runtime.loop.summary import CameraSummary, camera_notes
from twincar_edge.runtime.monitoring.status import CameraState, CameraStatus
from twincar_edge.runtime.sources.base import SourceState

# Maps source states to monitoring states.
_STATES: dict[SourceState, CameraState] = {
    "opening": "opening",
    "live": "running",
    "stalled": "reconnecting",
    "waiting": "reconnecting",
    "ended": "ended",
}


def camera_status(
    camera: CameraThread, answering: Answering, waiting: Mapping[str, int], replaced: Mapping[str, int], now_s: float
) -> CameraStatus:
    """Return a camera's status; queued and replaced crops are given by camera, `now_s` by the loop's timer."""
    source, busy_since_s, error = camera.source.status(), camera.busy_since_s, camera.error or camera.recovery.error
    ignored, limited = dict(camera.ignored.counts), answering.limited_of(camera.name)
    return CameraStatus(
        name=camera.name,
        live=camera.source.live and not camera.source.stills,
        state="failed" if error is not None else _STATES[source.state],
        frames=camera.frames,
        dropped=source.dropped,
        skipped=source.skipped,
        reconnects=source.reconnects,
        frame_age_s=source.last_frame_age_s,
        late_after_s=source.late_after_s,
        busy_s=None if busy_since_s is None else now_s - busy_since_s,
        answer_age_s=answering.age_s.get(camera.name),
        answer_ages=answering.ages[camera.name].read(),
        in_view=camera.in_view,
        crops_waiting=waiting.get(camera.name, 0),
        crops_dropped=replaced.get(camera.name, 0),
        ignored=ignored,
        limited=limited,
        notes=camera_notes(camera.config, camera.choice.locator, ignored, limited),
        problem=source.problem if error is None else str(error),
    )


def camera_summary(camera: CameraThread, answering: Answering, replaced: int) -> CameraSummary:
    """Return the summary of a camera.

    Args:
        camera: the camera, at the end of its run.
        answering: the thread that classified its crops.
        replaced: its crops that newer ones replaced before the model saw them.
    """
    source = camera.source.status()
    ignored, limited = dict(camera.ignored.counts), answering.limited_of(camera.name)
    return CameraSummary(
        name=camera.name,
        source=camera.source.name,
        frames=camera.frames,
        skipped=camera.source.skipped,
        skip_reasons=dict(camera.source.skip_reasons),
        dropped=source.dropped,
        crops_dropped=replaced,
        reconnects=source.reconnects,
        visits=sum(count for (name, _), count in answering.visits.items() if name == camera.name),
        located_by=str(camera.choice),
        ignored=ignored,
        limited=limited,
        notes=camera_notes(camera.config, camera.choice.locator, ignored, limited),
        error=None if camera.error is None else str(camera.error),
    )
