"""The camera loop: frames in, one event per vehicle out.

    source -> locate -> track -> crop and classify -> visit -> sinks

One thread, one frame at a time. What a stage takes is passed in (source, classifier, clock, timer), so that a test can
run the loop on arrays and hold time still.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from twincar_edge.bundled import default_model
from twincar_edge.runtime.boxes import Box, Detection
from twincar_edge.runtime.classifier import Classifier
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.golden_check import require_golden
from twincar_edge.runtime.locate import LocateOptions, Locator, make_locator
from twincar_edge.runtime.session import open_session
from twincar_edge.runtime.sinks import Sink
from twincar_edge.runtime.sources import Frame, Source, open_source
from twincar_edge.runtime.stages import StageLatency, Stages
from twincar_edge.runtime.tracking import Track, Tracker, TrackingRules
from twincar_edge.runtime.visits import Evidence, VisitMaker, crop
from twincar_edge.runtime.zones import Zone

logger = logging.getLogger(__name__)

AUTO = "auto"


class WatchConfig(BaseModel):
    """What to watch, with which model, and what counts as a visit.

    `source`, `once` and `stride` are `open_source`'s, `ep` and `threads` are `open_session`'s. `locate` is a name in
    `LOCATORS`, or `auto`: `motion` for video and cameras; for single images `zone` where zones are given, else
    `whole`. `allow_drift` goes on with a model that does not answer here as it did at export. `batch` is how many crops
    go through the model at once; `classify_every` takes a track's every Nth frame. `lost_after_s` is `TrackingRules`'.
    A track becomes a visit when the vehicle was found in at least `min_hits` frames and, where boxes move, travelled by
    at least `min_travel` of its diagonal, as shadows, lamps and branches do not. `duration_s` ends the run. `keep` puts
    the visits into the summary, which a run of months should not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(default="frames", repr=False)  # may hold a password
    model: Path | None = None
    ep: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    allow_drift: bool = False
    locate: str = AUTO
    zones: tuple[Zone, ...] = ()
    min_area: float = Field(default=0.01, gt=0, lt=1)
    presence: float = Field(default=0.06, gt=0, lt=1)
    once: bool = False
    stride: int = Field(default=1, ge=1)
    batch: int = Field(default=8, ge=1)
    classify_every: int = Field(default=1, ge=1)
    lost_after_s: float = Field(default=0.6, gt=0)
    min_hits: int = Field(default=3, ge=1)
    min_travel: float = Field(default=0.3, ge=0)
    duration_s: float | None = Field(default=None, gt=0)
    keep: bool = False


class WatchSummary(BaseModel):
    """What a run did. `source` has no secrets in it; `fps` is frames by seconds of the run, waiting included.

    `stages`: latencies of `read`, `locate`, `classify` (cut, resize, infer) and `write` (the sinks). `visits` counts;
    `results` holds them where the config says `keep`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    frames: int
    skipped: int
    skip_reasons: dict[str, int]
    visits: int
    seconds: float
    fps: float
    stages: dict[str, StageLatency]
    results: tuple[Event, ...] = ()


@dataclass(frozen=True)
class LiveTrack:
    """A vehicle in the current frame, for drawing: its box in pixels, and what the model says of it so far.

    `name` is None until the track is confirmed and its first crop classified; it is "unknown" where the model rejects.
    """

    id: int
    box_xyxy: Box
    name: str | None
    probability: float


OnFrame = Callable[[Frame, Sequence[LiveTrack]], None]


def watch(
    config: WatchConfig,
    sinks: Sequence[Sink] = (),
    *,
    source: Source | None = None,
    classifier: Classifier | None = None,
    stop: threading.Event | None = None,
    on_frame: OnFrame | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    timer: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] | None = None,
) -> WatchSummary:
    """Watch a source until it ends, and give every visit to the sinks.

    Args:
        config: what to watch and how.
        sinks: opened here, after source and model, and closed however the run ends.
        source: an open source in place of `config.source`; it is released here. `FrameSource` wraps any iterable.
        classifier: in place of `config.model`, whose golden inputs are then not run.
        stop: ends the run after the current frame; the vehicles then in view become visits.
        on_frame: called after each frame with the vehicles in it.
        clock: the time of day, with a time zone.
        timer: seconds, for latencies.
        new_id: makes a visit's id; random where it is not given.

    Raises:
        InputError: the source cannot be opened, the options do not fit it, or a sink cannot write.
        ModelError: the model cannot be used, or does not answer here as it did at export.
    """
    stop = stop or threading.Event()
    with ExitStack() as stack:
        if source is None:
            source = open_source(config.source, once=config.once, stride=config.stride, stop=stop)
        stack.enter_context(source)
        options = LocateOptions(config.zones, config.min_area, config.presence, source.stills)
        locator = make_locator(_locator_name(config, source), options)
        classifier = classifier or _open_classifier(config, source)
        maker = VisitMaker(source.name, classifier, stills=source.stills, clock=clock, new_id=new_id)
        for sink in sinks:
            stack.enter_context(sink)
        if config.duration_s is not None:
            alarm = threading.Timer(config.duration_s, stop.set)
            alarm.daemon = True
            alarm.start()
            stack.callback(alarm.join)
            stack.callback(alarm.cancel)
        loop = _Loop(config, locator, classifier, maker, sinks, Stages(timer))
        started_s = timer()
        frames = iter(source)
        while not stop.is_set() and loop.step(frames, source.stills, on_frame):
            pass
        loop.flush()
        seconds = timer() - started_s
    return WatchSummary(
        source=source.name,
        frames=loop.frames,
        skipped=source.skipped,
        skip_reasons=dict(source.skip_reasons),
        visits=loop.visits,
        seconds=round(seconds, 3),
        fps=round(loop.frames / seconds, 2) if seconds > 0 else 0.0,
        stages=loop.stages.latencies(),
        results=tuple(loop.results),
    )


def _locator_name(config: WatchConfig, source: Source) -> str:
    if config.locate != AUTO:
        return config.locate
    if not source.stills:
        return "motion"
    return "zone" if config.zones else "whole"


def _open_classifier(config: WatchConfig, source: Source) -> Classifier:
    # Spinning threads are faster where frames wait for the model, and burn a core where the model waits for frames.
    model = config.model or default_model()
    session = open_session(model, ep=config.ep, threads=config.threads, spinning=not source.live)
    require_golden(session, config.allow_drift)
    return Classifier(session)


class _Loop:
    """The state of one run: which vehicles are in view, what is known of them, what was counted."""

    def __init__(
        self,
        config: WatchConfig,
        locator: Locator,
        classifier: Classifier,
        maker: VisitMaker,
        sinks: Sequence[Sink],
        stages: Stages,
    ) -> None:
        self.frames = 0
        self.visits = 0
        self.results: list[Event] = []
        self.stages = stages
        self._config = config
        self._locator = locator
        self._classifier = classifier
        self._maker = maker
        self._sinks = sinks
        self._tracker = Tracker(
            TrackingRules(confirm_hits=config.min_hits, lost_after_s=config.lost_after_s, fixed=not locator.moves)
        )
        self._evidence: dict[int, Evidence] = {}

    def step(self, frames: Iterator[Frame], stills: bool, on_frame: OnFrame | None) -> bool:
        """Take the next frame through all stages; return whether there was one."""
        started_s = self.stages.timer()
        frame = next(frames, None)
        if frame is None:
            return False
        self.stages.add("read", self.stages.timer() - started_s)
        self.frames += 1
        with self.stages.stage("locate"):
            detections = self._locator.locate(frame)
        tracks = self._single_image(frame, detections) if stills else self._moving(frame, detections)
        if on_frame is not None:
            on_frame(frame, tracks)
        return True

    def flush(self) -> None:
        """End the visits of all vehicles that are still in view."""
        self._end(self._tracker.flush())

    def _single_image(self, frame: Frame, detections: Sequence[Detection]) -> list[LiveTrack]:
        """Every box of a single image is a visit of its own."""
        probabilities = self._classify(frame, [detection.box_xyxy for detection in detections])
        tracks = []
        for detection, row in zip(detections, probabilities, strict=True):
            evidence = self._maker.begin(frame, detection.box_xyxy)
            evidence.add(frame, detection.box_xyxy, detection.score, row)
            tracks.append(self._live(self.visits + 1, detection.box_xyxy, evidence))
            self._publish(evidence)
        return tracks

    def _moving(self, frame: Frame, detections: Sequence[Detection]) -> list[LiveTrack]:
        """Follow the vehicles of a stream, and end the visits of those that have gone."""
        for track in self._tracker.discard(self._locator.uncovered):
            del self._evidence[track.id]
        rows, columns = frame.image_bgr.shape[:2]
        found = self._tracker.update(detections, frame.time_s, (columns, rows))
        asked = []
        for track in found:
            evidence = self._evidence.get(track.id)
            if evidence is None:
                evidence = self._evidence[track.id] = self._maker.begin(frame, track.box_xyxy)
            evidence.see(frame, track.box_xyxy)
            # A box that never gets confirmed is not worth an inference; one that does gets one at once.
            if track.confirmed and (track.hits - self._config.min_hits) % self._config.classify_every == 0:
                asked.append(track)
        probabilities = self._classify(frame, [track.box_xyxy for track in asked])
        for track, row in zip(asked, probabilities, strict=True):
            self._evidence[track.id].add(frame, track.box_xyxy, track.score, row)
        self._end(self._tracker.lost)
        return [self._live(track.id, track.box_xyxy, self._evidence[track.id]) for track in found]

    def _classify(self, frame: Frame, boxes: Sequence[Box]) -> list[NDArray[np.float32]]:
        """Return each box's probabilities, float32 [classes]."""
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(boxes), self._config.batch):
            with self.stages.stage("classify"):
                crops = [crop(frame.image_bgr, box) for box in boxes[start : start + self._config.batch]]
                rows.extend(self._classifier.probabilities(crops))
        return rows

    def _live(self, number: int, box: Box, evidence: Evidence) -> LiveTrack:
        if not evidence.crops:
            return LiveTrack(number, box, None, 0.0)
        result = self._maker.answer(evidence)
        return LiveTrack(number, box, result.name, result.probability)

    def _end(self, tracks: Sequence[Track]) -> None:
        for track in tracks:
            evidence = self._evidence.pop(track.id)
            if track.confirmed and (track.travel >= self._config.min_travel or not self._locator.moves):
                self._publish(evidence)
            else:
                logger.debug("track %d is no visit: %d hits, travel %.2f", track.id, track.hits, track.travel)

    def _publish(self, evidence: Evidence) -> None:
        visit = self._maker.finish(evidence)
        self.visits += 1
        if self._config.keep:
            self.results.append(visit)
        with self.stages.stage("write"):
            for sink in self._sinks:
                sink.write(visit, evidence.best_crop)
