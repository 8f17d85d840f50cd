"""The camera loop: frames in, events of vehicles out.

    source -> locate -> track ─┐ (one thread per camera)
    source -> locate -> track ─┴> classify crops -> visits -> sinks (one thread, and one per sink)

Sources, classifier, clock and timer can be passed in, so that tests can run the loop on arrays and control the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.bundled import default_model
from twincar_edge.cores import inference_threads
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig, open_camera
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.golden_check import require_golden
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.locating.choice import AUTO, Choice, DetectorFile, choose_locator
from twincar_edge.runtime.locating.detector import Detector, open_detector
from twincar_edge.runtime.locating.pulled import pulled_detector
from twincar_edge.runtime.loop.answering import Answering, LiveFrame, LiveTrack, OnFrame, WhenSafe
from twincar_edge.runtime.loop.camera import CameraThread
from twincar_edge.runtime.loop.camera_status import camera_status, camera_summary
from twincar_edge.runtime.loop.footage import Footage
from twincar_edge.runtime.loop.inbox import Inbox
from twincar_edge.runtime.loop.summary import CameraSummary, WatchSummary
from twincar_edge.runtime.monitoring.stages import Stages
from twincar_edge.runtime.monitoring.status import LoopStatus, ModelStatus
from twincar_edge.runtime.sinks import Sink
from twincar_edge.runtime.sources import Source
from twincar_edge.runtime.supervised import SupervisedThread
from twincar_edge.runtime.visits import VisitMaker
from twincar_edge.wording import titled

__all__ = [
    "CameraConfig",
    "CameraSummary",
    "LiveFrame",
    "LiveTrack",
    "OnFrame",
    "Watch",
    "WatchConfig",
    "WatchSummary",
    "watch",
]

logger = logging.getLogger(__name__)

STOP_S = 3.0  # timeout after `stop` before the source of a camera thread that is still running is released
GIVE_UP_S = 10.0  # timeout after that before the thread is abandoned
_DEPTH_BATCHES = 8  # of queued crops per file: enough for bursts, and classified soon after its end
WAITING_BYTES = 100_000_000  # the memory limit of queued crops; in 4K, one crop takes up to 25 MB


def watch(
    config: WatchConfig,
    sinks: Sequence[Sink] = (),
    *,
    sources: Mapping[str, Source] | None = None,
    classifier: Classifier | None = None,
    stop: threading.Event | None = None,
    on_frame: OnFrame | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    timer: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] | None = None,
) -> WatchSummary:
    """Watch all cameras until they end, and write every event to the sinks.

    Args:
        config: what to watch and how.
        sinks: opened here, after sources and model, and closed at the end, also after an error.
        sources: open sources by camera name, used instead of the configured ones, and released here. `FrameSource`
            wraps any iterable.
        classifier: an open model to use instead of `config.model`; its golden inputs are not run.
        stop: ends the run after the current frames; the vehicles in view become visits.
        on_frame: called after each frame with its tracks and answers.
        clock: returns the time of day, with a time zone.
        timer: the monotonic clock, in seconds, for latencies and durations.
        new_id: returns a visit's id; see `VisitMaker`.

    Raises:
        InputError: no source can be opened, the only one fails, its options are invalid, or a sink cannot write.
        ModelError: the model cannot be used, or does not answer here as it did at export.
    """
    with Watch(
        config,
        sinks,
        sources=sources,
        classifier=classifier,
        stop=stop,
        on_frame=on_frame,
        clock=clock,
        timer=timer,
        new_id=new_id,
    ) as run:
        return run.run()


class Watch:
    """A run of the camera loop. Its status can be read, and its model replaced, while it runs.

    `watch` describes the arguments. As a context manager, it opens everything on entry and closes everything on exit.
    """

    def __init__(
        self,
        config: WatchConfig,
        sinks: Sequence[Sink] = (),
        *,
        sources: Mapping[str, Source] | None = None,
        classifier: Classifier | None = None,
        stop: threading.Event | None = None,
        on_frame: OnFrame | None = None,
        wants: Callable[[str], bool] = lambda _camera: True,
        seen_folder: Path | None = None,
        when_safe: WhenSafe = lambda action: action(),
        footage: Callable[[], Footage] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        timer: Callable[[], float] = time.perf_counter,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        """Store the settings; nothing is opened yet.

        `wants` decides for each frame, by the camera's name and from any thread, whether `on_frame` is called.
        `seen_folder` stores which files of watched folders were handled, across restarts; None stores nothing.
        `when_safe` delays that: it calls its argument once the sinks have delivered or stored the events so far.
        `footage` creates a camera's buffer of frames for clips; None records no clips.
        """
        self.stop = stop or threading.Event()
        self.stages = Stages(timer)
        self.inbox = Inbox(_DEPTH_BATCHES * config.batch, WAITING_BYTES, config.batch)
        self.cameras: list[CameraThread] = []
        self._config = config
        self._sinks = sinks
        self._sources = sources or {}
        self._classifier = classifier
        self._on_frame = on_frame
        self._wants = wants
        self._seen_folder = seen_folder
        self._when_safe = when_safe
        self._footage = footage
        self._clock = clock
        self._new_id = new_id
        self._results: list[Event] = []
        self._stack = ExitStack()

    def __enter__(self) -> Watch:
        """Open sources, model and sinks, in this order.

        Raises:
            TwincarError: see `watch`.
        """
        with ExitStack() as stack:
            opened = [stack.enter_context(self._open_source(camera)) for camera in self._config.cameras]
            classifier = self._classifier or self._open_classifier()
            choices, detector = self._choose_locators(opened)
            for camera, source, choice in zip(self._config.cameras, opened, choices, strict=True):
                maker = VisitMaker(
                    source.name,
                    camera=camera.name,
                    stills=source.stills,
                    early_start=camera.early_start,
                    clock=self._clock,
                    monotonic=self.stages.timer,
                    new_id=self._new_id,
                )
                thread = CameraThread(
                    camera,
                    source,
                    maker,
                    self.inbox,
                    self.stages,
                    self.stop,
                    choice=choice,
                    detector=detector,
                    footage=None if self._footage is None else self._footage(),
                    show=None if self._on_frame is None else self._wants,
                    alone=len(self._config.cameras) == 1,
                )
                self.cameras.append(thread)
            for sink in self._sinks:
                stack.enter_context(sink)
            self.answering = Answering(
                self.inbox,
                classifier,
                {camera.name: camera.maker for camera in self.cameras},
                self._publish,
                self.stages,
                batch=self._config.batch,
                on_frame=self._on_frame,
                when_safe=self._when_safe,
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sinks and release the sources."""
        self._stack.close()

    def run(self) -> WatchSummary:
        """Run until all cameras have ended, or `stop` is set.

        Raises:
            InputError: all cameras have failed; the message is the first one's.
            ModelError: the model failed.
        """
        started_s = self.stages.timer()
        with ExitStack() as stack:
            if self._config.duration_s is not None:
                alarm = threading.Timer(self._config.duration_s, self.stop.set)
                alarm.daemon = True
                alarm.start()
                stack.callback(alarm.join)
                stack.callback(alarm.cancel)
            done = threading.Event()
            watchdog = SupervisedThread(partial(self._shutdown_watchdog, done), "shutdown watchdog", pause=done.wait)
            watchdog.start()
            stack.callback(watchdog.join)
            stack.callback(done.set)
            for camera in self.cameras:
                camera.start()
            try:
                self.answering.run()
            except BaseException:
                self.stop.set()
                self.inbox.close()
                raise
            finally:
                for camera in self.cameras:
                    camera.join(STOP_S + GIVE_UP_S)
        errors = [camera.error for camera in self.cameras if camera.error is not None]
        if errors and len(errors) == len(self.cameras):
            raise errors[0]
        return self._summary(self.stages.timer() - started_s)

    def _shutdown_watchdog(self, done: threading.Event) -> None:
        """Release the sources of cameras that do not stop in time: a driver may block forever, the run may not."""
        while not self.stop.is_set():
            if done.wait(0.2):
                return
        if done.wait(STOP_S):
            return
        for camera in self.cameras:
            if camera.alive:
                logger.warning("%s did not stop in %g s; releasing its source", titled("camera", camera.name), STOP_S)
                camera.source.release()
        if not done.wait(GIVE_UP_S):
            self.inbox.close()

    def _open_source(self, camera: CameraConfig) -> Source:
        return self._sources.get(camera.name) or open_camera(
            camera,
            stop=self.stop,
            keep_trying=self._config.keep_trying,
            seen=None if self._seen_folder is None else self._seen_folder / f"seen-{camera.name}",
        )

    def _open_classifier(self) -> Classifier:
        # Threads that spin between inferences would use up the core that decodes and locates.
        model, threads = self._config.model or default_model(), self._config.threads or inference_threads()
        session = open_session(model, ep=self._config.ep, threads=threads, trust=self._config.trust)
        require_golden(session, self._config.allow_drift)
        return Classifier(session)

    def _choose_locators(self, sources: Sequence[Source]) -> tuple[list[Choice], Detector | None]:
        """Return each camera's locator, and the open detector if one of them needs it."""
        config = self._config
        file = self._detector_file()
        choices = [
            choose_locator(camera.locate, stills=source.stills, zones=camera.zones, detector=file)
            for camera, source in zip(config.cameras, sources, strict=True)
        ]
        for camera, choice in zip(config.cameras, choices, strict=True):
            logger.info("%s: locating by %s", titled("camera", camera.name), choice)
        if file is None or (file.pulled and all(choice.locator != "detector" for choice in choices)):
            return choices, None
        return choices, open_detector(file.path, ep=config.ep, threads=config.threads or inference_threads())

    def _detector_file(self) -> DetectorFile | None:
        config = self._config
        if config.detector is not None:
            return DetectorFile(config.detector)
        if not any(camera.locate in (AUTO, "detector") for camera in config.cameras):
            return None
        pulled = pulled_detector(config.state)
        return None if pulled is None else DetectorFile(pulled, pulled=True)

    def _publish(self, event: Event, crop_bgr: NDArray[np.uint8]) -> None:
        if self._config.keep and event.type == "end" and not event.false_positive:
            self._results.append(event)
        for sink in self._sinks:
            sink.write(event, crop_bgr)

    def status(self) -> LoopStatus:
        """Return the current status; may be called from any thread."""
        waiting, replaced, now_s = self.inbox.waiting(), self.inbox.replaced(), self.stages.timer()
        session = self.answering.classifier.session
        return LoopStatus(
            cameras=tuple(camera_status(camera, self.answering, waiting, replaced, now_s) for camera in self.cameras),
            model=ModelStatus(session.manifest.name, session.sha256, session.manifest.precision, session.ep),
            turn_age_s=now_s - self.answering.turned_s,
            crops=self.answering.crops,
            visits=dict(self.answering.visits),
            vehicle_types=dict(self.answering.vehicle_types),
            answers=self.answering.windows.windows(now_s),
            stages=self.stages.latencies(),
            stage_durations=self.stages.durations(),
        )

    def _summary(self, seconds: float) -> WatchSummary:
        replaced = self.inbox.replaced()
        return WatchSummary(
            cameras=tuple(camera_summary(one, self.answering, replaced.get(one.name, 0)) for one in self.cameras),
            seconds=round(seconds, 3),
            stages=self.stages.latencies(),
            results=tuple(self._results),
        )
