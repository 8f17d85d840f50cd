"""What a running loop says of itself, as data: one snapshot, from which metrics and health are made.

The loop fills it from counters that it keeps anyway; it costs nothing until it is read. Ages are in seconds up to
the moment of the snapshot. Nothing in it holds a secret: sources are redacted before they get here.
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
    """One camera, or a file or folder in its place.

    Attributes:
        name: the camera's.
        live: frames come at the pace of the world, so that none for a while means trouble. A file is not live.
        state: `opening` until the first frame, `reconnecting` while a lost one is tried again, `ended` where the source
            was over or the run told it to stop, `failed` where it ended by an error and is not tried again.
        frames: taken from the source.
        dropped: frames of a live camera that came while an older one was being looked at.
        skipped: frames or images that could not be decoded.
        reconnects: how often it was opened again.
        frame_age_s: since its newest frame; None where there was none yet.
        answer_age_s: how old the frame of its newest answer was when it was answered; None where there was none yet.
        answer_ages: the same of all answers, by bucket.
        in_view: vehicles in its newest frame.
        crops_waiting: crops that wait for the model.
        crops_dropped: crops that a newer one of the same vehicle replaced before the model saw them.
        ignored: how many moving things were no vehicle to it, by reason (`IgnoredReason`).
        limited: how many visits have ended whose answer was held back, by reason (`Limit`).
        notes: both in sentences, with what changes it.
        problem: the last one, in words, or None.
    """

    name: str
    live: bool
    state: CameraState
    frames: int = 0
    dropped: int = 0
    skipped: int = 0
    reconnects: int = 0
    frame_age_s: float | None = None
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
    """One sink.

    Attributes:
        name: its name.
        queued: events that wait in memory.
        spooled: events that wait on disk.
        delivered: events delivered in this run.
        dropped: events given up in this run.
        problem: what keeps it from delivering now, in words, or None.
        aside: events that the receiver refused, kept on disk.
        local: it writes to a disk of this machine.
        oldest_s: for how long the oldest undelivered event has waited, 0 without one.
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
    """The model that answers now.

    Attributes:
        name: the manifest's.
        sha256: the file's digest.
        precision: the manifest's.
        ep: the execution provider's short name.
        reloads: how many requests for a new model file came out how (`ReloadOutcome`).
        problem: why it does not answer any more, or None.
    """

    name: str
    sha256: str
    precision: str
    ep: str
    reloads: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class CollectorStatus:
    """Hard examples: pictures kept and not kept in this run, and the bytes that all of them take now."""

    kept: int
    dropped: int
    bytes: int


@dataclass(frozen=True)
class LoopStatus:
    """All of it.

    Attributes:
        cameras: one each, in the order of the configuration.
        model: the one that answers now.
        turn_age_s: since the answering thread last turned; it turns even when there is nothing to do.
        crops: how many were classified.
        visits: how many have ended, by camera and level of the answer.
        vehicle_types: how many have ended, by camera and kind of vehicle; `unknown` where the locator cannot tell.
        answers: what the visits of a window were answered, by camera and window.
        stages: latencies by stage.
        stage_durations: the same by bucket.
        sinks: one each.
        collector: of hard examples, where they are collected.
        faults: threads that failed a short while ago and were started again, a line each.
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
