"""The status of a running loop: a snapshot from which metrics and health are derived.

The loop builds it on demand, from its existing counters. Ages are in seconds at the time of the snapshot. It contains
no secrets: sources are redacted before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from twincar_edge.runtime.events import Limit
from twincar_edge.runtime.locating.boxes import IgnoredReason
from twincar_edge.runtime.monitoring.drift import AnswerWindow
from twincar_edge.runtime.monitoring.durations import DurationCounts
from twincar_edge.runtime.monitoring.stages import StageLatency

CameraState = Literal["opening", "running", "reconnecting", "ended", "failed"]
CAMERA_STATES: tuple[CameraState, ...] = ("opening", "running", "reconnecting", "ended", "failed")


@dataclass(frozen=True)
class CameraStatus:
    """The status of a camera, file or folder.

    Attributes:
        name: the camera's name.
        live: frames arrive in real time, so a lack of frames is a problem. A file is not live.
        state: `opening` until the first frame, `reconnecting` after a lost connection or folder, `ended` when the
            source is finished or was stopped, `failed` after an error in a frame; a live camera may try again.
        frames: frames read from the source.
        dropped: frames of a live camera dropped because an older one was being processed.
        skipped: frames or images that could not be decoded.
        reconnects: number of times the source was reopened.
        frame_age_s: age of the newest frame; None before the first.
        late_after_s: frame age above which the source itself says that frames are late: more if the camera is polled.
        busy_s: time since the camera's thread began to locate and track in its current frame; None in between.
        answer_age_s: age of the newest answer's frame when it was answered; None before the first answer.
        answer_ages: histogram of this age over all answers.
        in_view: vehicles in the newest frame; 0 once the camera is lost or fails.
        crops_waiting: crops queued for the model.
        crops_dropped: crops replaced by a newer one of the same vehicle before the model processed them.
        ignored: number of moving objects not counted as vehicles, by reason (`IgnoredReason`).
        limited: number of ended visits whose answer was held back, by reason (`Limit`).
        notes: explanations of both, with the parameter that changes them.
        problem: the last problem, or None.
    """

    name: str
    live: bool
    state: CameraState
    frames: int = 0
    dropped: int = 0
    skipped: int = 0
    reconnects: int = 0
    frame_age_s: float | None = None
    late_after_s: float = 0.0
    busy_s: float | None = None
    answer_age_s: float | None = None
    answer_ages: DurationCounts = field(default_factory=DurationCounts)
    in_view: int = 0
    crops_waiting: int = 0
    crops_dropped: int = 0
    ignored: Mapping[IgnoredReason, int] = field(default_factory=dict)
    limited: Mapping[Limit, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class SinkStatus:
    """The status of a sink.

    Attributes:
        name: the sink's name.
        queued: events queued in memory.
        spooled: events queued on disk.
        delivered: events delivered in this run.
        dropped: events dropped in this run.
        problem: why the sink cannot deliver now, or cannot do its periodic work, or None.
        aside: events that the receiver refused, stored on disk.
        local: the sink writes to a disk of this machine.
        oldest_s: age of the oldest undelivered event; 0 without one.
    """

    name: str
    queued: int = 0
    spooled: int = 0
    delivered: int = 0
    dropped: int = 0
    problem: str | None = None
    aside: int = 0
    local: bool = False
    oldest_s: float = 0.0


@dataclass(frozen=True)
class ModelStatus:
    """The status of the current model.

    Attributes:
        name: the name in the manifest.
        sha256: the file's digest.
        precision: the precision in the manifest.
        ep: the execution provider's short name.
        reloads: number of reload requests by outcome (`ReloadOutcome`).
    """

    name: str
    sha256: str
    precision: str
    ep: str
    reloads: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CollectorStatus:
    """Hard examples: pictures saved and dropped in this run, and the current size of all."""

    kept: int
    dropped: int
    bytes: int


@dataclass(frozen=True)
class LoopStatus:
    """The status of the whole loop.

    Attributes:
        cameras: the cameras, in the order of the configuration.
        model: the current model.
        turn_age_s: time since the last cycle of the answering thread, which also cycles when idle.
        crops: number of classified crops.
        visits: number of ended visits, by camera and level of the answer.
        vehicle_types: number of ended visits, by camera and kind of vehicle; `unknown` if the locator does not
            recognize kinds.
        answers: statistics of answers, by camera and window.
        stages: latencies by stage.
        stage_durations: histograms of latencies by stage.
        sinks: the sinks.
        collector: the collector of hard examples, if enabled.
        faults: one line per thread that failed recently and was restarted.
    """

    cameras: tuple[CameraStatus, ...]
    model: ModelStatus
    turn_age_s: float
    crops: int = 0
    visits: Mapping[tuple[str, str], int] = field(default_factory=dict)
    vehicle_types: Mapping[tuple[str, str], int] = field(default_factory=dict)
    answers: Mapping[tuple[str, str], AnswerWindow] = field(default_factory=dict)
    stages: Mapping[str, StageLatency] = field(default_factory=dict)
    stage_durations: Mapping[str, DurationCounts] = field(default_factory=dict)
    sinks: tuple[SinkStatus, ...] = ()
    collector: CollectorStatus | None = None
    faults: tuple[str, ...] = ()
