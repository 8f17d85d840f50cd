"""A loop's status as Prometheus metrics. Each scrape takes one snapshot of the loop.

Labels are names from the configuration (cameras, sinks) and words from fixed lists (levels, states, stages), so that
the number of series is fixed when a run starts. Class names, visits and problem texts are not labels: they are in the
events and in `/healthz`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from twincar_edge import __version__
from twincar_edge.runtime.events import Level, Limit
from twincar_edge.runtime.inference.answers import UNKNOWN
from twincar_edge.runtime.locating.boxes import IgnoredReason
from twincar_edge.runtime.locating.coco import VEHICLE_KINDS
from twincar_edge.runtime.monitoring.drift import AnswerWindow
from twincar_edge.runtime.monitoring.durations import BUCKETS_S, DurationCounts
from twincar_edge.runtime.monitoring.status import CAMERA_STATES, CameraStatus, LoopStatus, SinkStatus

Value = float | int | None

_CAMERA_COUNTERS: tuple[tuple[str, str, Callable[[CameraStatus], int]], ...] = (
    ("twincar_frames", "Frames taken from the source.", lambda camera: camera.frames),
    (
        "twincar_frames_dropped",
        "Frames of a live camera dropped because an older one was being processed.",
        lambda camera: camera.dropped,
    ),
    (
        "twincar_frames_skipped",
        "Frames or images that could not be decoded, or never change.",
        lambda camera: camera.skipped,
    ),
    ("twincar_reconnects", "Number of times the source was reopened.", lambda camera: camera.reconnects),
    (
        "twincar_crops_dropped",
        "Crops replaced by a newer one of the same vehicle before the model processed them.",
        lambda camera: camera.crops_dropped,
    ),
)
_CAMERA_GAUGES: tuple[tuple[str, str, Callable[[CameraStatus], Value]], ...] = (
    ("twincar_frame_age_seconds", "Time since the newest frame.", lambda camera: camera.frame_age_s),
    (
        "twincar_answer_age_seconds",
        "Deprecated, use twincar_answer_latency_seconds. Age of the newest answer's frame when it was answered.",
        lambda camera: camera.answer_age_s,
    ),
    ("twincar_vehicles_in_view", "Vehicles in the newest frame.", lambda camera: camera.in_view),
    ("twincar_crops_waiting", "Crops queued for the model.", lambda camera: camera.crops_waiting),
)
_DRIFT_GAUGES: tuple[tuple[str, str, Callable[[AnswerWindow], Value]], ...] = (
    ("twincar_drift_visits", "Visits that ended in the window.", lambda window: window.visits),
    ("twincar_drift_unknown_share", "Share of these visits answered unknown.", lambda window: window.unknown_share),
    ("twincar_drift_familiarity_mean", "Mean familiarity of these visits.", lambda window: window.familiarity_mean),
    ("twincar_drift_probability_mean", "Mean probability of these visits.", lambda window: window.probability_mean),
)
_SINK_COUNTERS: tuple[tuple[str, str, Callable[[SinkStatus], int]], ...] = (
    ("twincar_sink_delivered", "Events delivered.", lambda sink: sink.delivered),
    ("twincar_sink_dropped", "Events or pictures dropped.", lambda sink: sink.dropped),
)
_SINK_GAUGES: tuple[tuple[str, str, Callable[[SinkStatus], Value]], ...] = (
    ("twincar_sink_queued", "Events queued in memory.", lambda sink: sink.queued),
    ("twincar_sink_spooled", "Events queued on disk.", lambda sink: sink.spooled),
    ("twincar_sink_set_aside", "Events that the receiver refused, stored on disk.", lambda sink: sink.aside),
    ("twincar_sink_oldest_seconds", "Age of the oldest undelivered event.", lambda sink: sink.oldest_s),
    (
        "twincar_sink_failing",
        "1 while the sink cannot deliver; see /healthz and the log for the reason.",
        lambda sink: int(sink.problem is not None),
    ),
)


def make_registry(status: Callable[[], LoopStatus]) -> CollectorRegistry:
    """Return a new registry that calls `status` at every scrape, with the process's memory and start time."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    return registry


class StatusCollector(Collector):
    """Converts a snapshot of the loop into metric families at every scrape."""

    def __init__(self, status: Callable[[], LoopStatus]) -> None:
        """Call `status` for each snapshot, in the thread of the request."""
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not take a snapshot of a loop that may not run yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Take a snapshot and yield its metrics."""
        status = self._status()
        yield _gauge("twincar_build_info", "The running version.", ["version"], [([__version__], 1)])
        yield from _model(status)
        yield from _cameras(status)
        yield from _work(status)
        yield from _sinks(status)
        if status.collector is not None:
            examples = status.collector
            outcomes: list[tuple[list[str], Value]] = [(["kept"], examples.kept), (["dropped"], examples.dropped)]
            yield _counter("twincar_hard_examples", "Hard examples by outcome.", ["outcome"], outcomes)
            yield _gauge("twincar_hard_examples_bytes", "Total size of hard examples.", [], [([], examples.bytes)])


def _model(status: LoopStatus) -> Iterator[Metric]:
    model = status.model
    labels = ["name", "sha256", "precision", "ep"]
    values = [model.name, model.sha256, model.precision, model.ep]
    yield _gauge("twincar_model_info", "The current model.", labels, [(values, 1)])
    reloads = [([outcome], count) for outcome, count in model.reloads.items()]
    yield _counter("twincar_model_reloads", "Requests for a new model file by outcome.", ["outcome"], reloads)


def _cameras(status: LoopStatus) -> Iterator[Metric]:
    states = [
        ([camera.name, state], int(camera.state == state)) for camera in status.cameras for state in CAMERA_STATES
    ]
    yield _gauge("twincar_camera_state", "1 for the camera's current state.", ["camera", "state"], states)
    for name, text, count in _CAMERA_COUNTERS:
        yield _counter(name, text, ["camera"], [([camera.name], count(camera)) for camera in status.cameras])
    ignored = [
        ([camera.name, reason], camera.ignored.get(reason, 0))
        for camera in status.cameras
        for reason in get_args(IgnoredReason)
    ]
    yield _counter("twincar_ignored", "Ignored moving objects, by reason.", ["camera", "reason"], ignored)
    limited = [
        ([camera.name, reason], camera.limited.get(reason, 0))
        for camera in status.cameras
        for reason in get_args(Limit)
    ]
    text = "Ended visits whose answer was held back, by reason."
    yield _counter("twincar_visits_limited", text, ["camera", "reason"], limited)
    for name, text, value in _CAMERA_GAUGES:
        yield _gauge(name, text, ["camera"], [([camera.name], value(camera)) for camera in status.cameras])


def _work(status: LoopStatus) -> Iterator[Metric]:
    visits = [
        ([camera.name, level], status.visits.get((camera.name, level), 0))
        for camera in status.cameras
        for level in get_args(Level)
    ]
    yield _counter("twincar_visits", "Ended visits, by level of the answer.", ["camera", "level"], visits)
    of_type = [
        ([camera.name, kind], status.vehicle_types.get((camera.name, kind), 0))
        for camera in status.cameras
        for kind in (*VEHICLE_KINDS, UNKNOWN)
    ]
    text = "Ended visits, by kind of vehicle; unknown if the locator does not recognize kinds."
    yield _counter("twincar_visits_by_type", text, ["camera", "vehicle_type"], of_type)
    for name, text, value in _DRIFT_GAUGES:
        of_window = [([camera, window], value(figures)) for (camera, window), figures in status.answers.items()]
        yield _gauge(name, text, ["camera", "window"], of_window)
    yield _counter("twincar_crops_classified", "Crops classified.", [], [([], status.crops)])
    age_s = max([status.turn_age_s, *(camera.busy_s or 0.0 for camera in status.cameras)])
    text = "Time since the answering thread or, in the middle of a frame, a camera's thread last made progress."
    yield _gauge("twincar_turn_age_seconds", text, [], [([], age_s)])
    runs = [([name], stage.runs) for name, stage in status.stages.items()]
    yield _counter("twincar_stage_runs", "Number of runs of a stage.", ["stage"], runs)
    text = "Duration of a stage."
    durations = (([name], counts) for name, counts in status.stage_durations.items())
    yield _histogram("twincar_stage_duration_seconds", text, ["stage"], durations)
    text = "Age of an answer's frame when it was answered."
    ages = (([camera.name], camera.answer_ages) for camera in status.cameras)
    yield _histogram("twincar_answer_latency_seconds", text, ["camera"], ages)
    text = "Deprecated, use twincar_stage_duration_seconds. Latency of a stage over the whole run, accurate to 1%."
    summary = Metric("twincar_stage_latency_seconds", text, "summary")
    for name, stage in status.stages.items():
        for quantile, latency_ms in (("0.5", stage.p50_ms), ("0.95", stage.p95_ms)):
            summary.add_sample(summary.name, {"stage": name, "quantile": quantile}, latency_ms / 1e3)
    yield summary


def _sinks(status: LoopStatus) -> Iterator[Metric]:
    for name, text, count in _SINK_COUNTERS:
        yield _counter(name, text, ["sink"], [([sink.name], count(sink)) for sink in status.sinks])
    for name, text, value in _SINK_GAUGES:
        yield _gauge(name, text, ["sink"], [([sink.name], value(sink)) for sink in status.sinks])


def _counter(name: str, text: str, labels: list[str], values: Iterable[tuple[list[str], Any]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _gauge(name: str, text: str, labels: list[str], values: Iterable[tuple[list[str], Value]]) -> Metric:
    """Create a family; unknown values are omitted, as Prometheus recommends."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for label_values, value in values:
        if value is not None:
            family.add_metric(label_values, value)
    return family


def _histogram(name: str, text: str, labels: list[str], values: Iterable[tuple[list[str], DurationCounts]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    edges = [*map(floatToGoString, BUCKETS_S), "+Inf"]
    for label_values, durations in values:
        family.add_metric(label_values, list(zip(edges, accumulate(durations.counts), strict=True)), durations.sum_s)
    return family
