"""The camera loop as a service: with sinks, state folder, monitoring and model reload.

`watch.py` is only the loop, as a library; `Service` is what `twincar-edge watch` runs.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from twincar_edge.errors import InputError, require
from twincar_edge.files import is_folder
from twincar_edge.runtime.annotating.video import AnnotatedVideos, VideoSummary
from twincar_edge.runtime.collect import Collector
from twincar_edge.runtime.configuration.config import WatchConfig
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.loop.answering import LiveFrame, OnFrame
from twincar_edge.runtime.loop.footage import Footage
from twincar_edge.runtime.monitoring.health import HealthLimits, camera_problem, check_health
from twincar_edge.runtime.monitoring.status import LoopStatus
from twincar_edge.runtime.monitoring.systemd import Notifier
from twincar_edge.runtime.page.pictures import LivePictures
from twincar_edge.runtime.reload import ModelReloader
from twincar_edge.runtime.sinks import Delivery, DeliveryPolicy
from twincar_edge.runtime.sinks.clip_saver import ClipSaver
from twincar_edge.runtime.sinks.fan_out import FanOut
from twincar_edge.runtime.sinks.open_visits import OpenVisits
from twincar_edge.runtime.sinks.opening import destinations, needs_state, open_clip_saver, open_sinks, spool_owners
from twincar_edge.runtime.sinks.settings import ClipsSettings, CropsSettings, StoreSettings
from twincar_edge.runtime.sinks.unowned import recover_unowned
from twincar_edge.runtime.sources import Source, is_camera
from twincar_edge.runtime.storage.state import StateFolder
from twincar_edge.runtime.watch import Watch, WatchSummary

if TYPE_CHECKING:
    from twincar_edge.runtime.page.server import PageServer

logger = logging.getLogger(__name__)

_COLLECT = DeliveryPolicy(types=frozenset({"end"}), limit=16, crops=True, retry=False, local=True)


class Service:
    """The camera loop with its sinks, state folder, monitoring, and a model that can be reloaded.

        with Service(config) as service:
            summary = service.run()

    Attributes:
        url: the URL of metrics and health, or None.
        page: the web page, or None.
        destinations: a description of where the events go, without secrets.
        reader_gone: set when standard output is closed by its reader, which ends the run.
    """

    def __init__(
        self,
        config: WatchConfig,
        *,
        stop: threading.Event | None = None,
        annotate: Path | None = None,
        on_frame: OnFrame | None = None,
        sources: Mapping[str, Source] | None = None,
    ) -> None:
        """Create the parts; nothing is opened yet.

        Args:
            config: the cameras, the model, the sinks and the other parts.
            stop: ends the run after the current frames; may be set from any thread.
            annotate: where to write the annotated video; see `AnnotatedVideos`.
            on_frame: called after each frame with its tracks and answers.
            sources: open sources by camera name, used instead of the configured ones.

        Raises:
            InputError: a setting of a sink, or a path, is invalid.
            MissingExtraError: PyAV is needed but not installed.
        """
        _check_folders(config)
        stop = stop or threading.Event()
        self.url: str | None = None
        self.page: PageServer | None = None
        self.reader_gone = threading.Event()
        self._config = config
        self._stop = stop
        self._limits = HealthLimits()
        self._stack = ExitStack()
        self._started = False
        self._names = [camera.name for camera in config.cameras]
        live = any(is_camera(camera.source, once=camera.once) for camera in config.cameras)
        self._locks_state = needs_state(config.sinks, live=live) or (live and config.state is not None)
        stores = any(options.kind == "store" and options.path is None for options in config.sinks)
        self._state = StateFolder(config.state) if self._locks_state or stores else None
        deliveries = open_sinks(
            config.sinks,
            self._state,
            cameras=self._names,
            live=live,
            on_gone=self._end_without_reader,
            stop=stop,
            available=self._cameras_available,
        )
        self._deliveries = deliveries
        self.destinations = destinations(config.sinks, self._state)
        self._collector = None if config.collect is None else Collector(config.collect, config.collect_limit)
        if self._collector is not None:
            deliveries.append(Delivery(self._collector, "hard examples", _COLLECT, stop=stop))
        self._open_visits: OpenVisits | None = None
        keeper: Delivery | None = None
        if live and self._locks_state and self._state is not None:
            self._open_visits = OpenVisits(self._state.folder / "open-visits.sqlite")
            keeper = Delivery(self._open_visits, "open visits", DeliveryPolicy(local=True), stop=stop)
        clip_saver = open_clip_saver(config.sinks, stop=stop)
        footage = None if clip_saver is None else lambda: Footage(clip_saver.put, clip_saver.rules)
        queues: list[Delivery | ClipSaver] = [*deliveries, *([clip_saver] if clip_saver is not None else [])]
        self._queues = [*queues, *([keeper] if keeper is not None else [])]
        self._fan_out = FanOut(deliveries, queues, keeper, {options.kind for options in config.sinks})
        self._videos = None if annotate is None else AnnotatedVideos(annotate, config.cameras, stop=stop)
        callbacks: list[OnFrame] = [callback for callback in (self._videos, on_frame) if callback is not None]
        self._pictures = None if config.page is None else LivePictures(config.cameras)
        wants = (lambda _camera: True) if callbacks or self._pictures is None else self._pictures.wants
        if self._pictures is not None:
            callbacks.append(self._pictures)
        self._watch = Watch(
            config,
            [self._fan_out],
            sources=sources,
            stop=stop,
            seen_folder=None if self._state is None else self._state.folder,
            when_safe=self._fan_out.when_safe,
            footage=footage,
            on_frame=_all_of(callbacks) if callbacks else None,
            wants=wants,
        )
        self._notifier = Notifier.from_environment(self._is_alive)
        self._reloader: ModelReloader  # created by `start`, because it needs the open model

    def start(self) -> None:
        """Open cameras, model and sinks, and start the other threads. On an error, everything is closed again.

        Raises:
            InputError: a camera, sink, folder or address cannot be used, or another process uses the state folder.
            ModelError: the model cannot be used, or does not answer here as it did at export.
        """
        config = self._config
        logger.info("events go to: %s", self.destinations)
        with ExitStack() as stack:
            if self._state is not None and self._locks_state:
                stack.enter_context(self._state)
                recover_unowned(self._state.spool, spool_owners(config.sinks, self._state))
            if self._videos is not None:
                stack.enter_context(self._videos)
            stack.enter_context(self._watch)
            if not any(camera.newest_only for camera in self._watch.cameras):
                for queue in (*self._queues, *([] if self._videos is None else [self._videos])):
                    queue.wait_for_room()
            if self._videos is not None:
                self._videos.require_moving(camera.source for camera in self._watch.cameras)
            stack.enter_context(self._notifier)
            answering = self._watch.answering
            self._reloader = ModelReloader(
                answering.classifier.session,
                answering.use,
                allow_drift=config.allow_drift,
                trust=config.trust,
                notifier=self._notifier,
            )
            stack.enter_context(self._reloader)
            if config.monitor is not None:
                from twincar_edge.runtime.monitoring.server import Monitoring  # slow to import, rarely needed

                self.url = stack.enter_context(Monitoring(config.monitor, self.status, self._limits)).url
            if config.page is not None and self._pictures is not None:
                stack.enter_context(self._pictures)
                self.page = stack.enter_context(self._page_server(config.page, self._pictures))
            self._started = True
            self._stack = stack.pop_all()

    def _page_server(self, settings: PageSettings, pictures: LivePictures) -> PageServer:
        require("starlette", "page")
        from twincar_edge.runtime.page.content import Content, Running
        from twincar_edge.runtime.page.server import PageServer

        state = self._state or StateFolder(self._config.state)
        folders, store = [], state.store
        for options in self._config.sinks:
            if isinstance(options, CropsSettings | ClipsSettings):
                folders.append(options.path)
            elif isinstance(options, StoreSettings):
                store = options.path or state.store
        answering = self._watch.answering
        content = Content(
            store,
            state.folder,
            tuple(folders),
            lambda: answering.classifier,
            Running(self.status, self._limits, pictures),
            self._reloader.switch,
            self._reloader.check,
        )
        return PageServer(content, settings)

    def stop(self) -> None:
        """Close everything that `start` opened. Sinks get a few seconds to deliver queued events."""
        self._stack.close()

    def __enter__(self) -> Self:
        """Start; raises the errors of `start`."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def run(self) -> WatchSummary:
        """Run until all cameras have ended, or `stop` is set.

        Raises:
            InputError: all cameras have failed; the message is the first one's.
            ModelError: the model failed.
        """
        self._notifier.ready(f"watching {', '.join(self._names)}")
        if self._open_visits is not None:
            self._open_visits.end_left(self._fan_out.write)
        try:
            summary = self._watch.run()
        finally:
            if self._open_visits is not None:  # the queues close next
                self._open_visits.end_left(None)
        for camera in self._watch.cameras:
            if camera.finished:
                for delivery in self._deliveries:
                    delivery.finished(camera.name, camera.source.recordings)
        return summary

    @property
    def videos(self) -> tuple[VideoSummary, ...]:
        """Return the annotated videos; empty until the service has stopped."""
        return () if self._videos is None else self._videos.summaries

    def reload(self) -> None:
        """Request a reload of the model file. Returns at once, and may be called from a signal handler."""
        self._reloader.request()

    def status(self) -> LoopStatus:
        """Return the current status; may be called from any thread."""
        now = self._watch.status()
        parts = (*self._queues, self._fan_out, self._reloader, self._notifier)
        return replace(
            now,
            model=replace(now.model, reloads=self._reloader.counts()),
            sinks=tuple(queue.status() for queue in self._queues),
            faults=tuple(fault for part in parts for fault in part.faults()),
            collector=None if self._collector is None else self._collector.status(),
        )

    def _cameras_available(self) -> dict[str, bool]:
        """Return for each camera whether `/healthz` reports it as healthy; empty until the service has started."""
        cameras = self._watch.status().cameras if self._started else ()
        return {camera.name: camera_problem(camera, self._limits) is None for camera in cameras}

    def _is_alive(self) -> bool:
        return check_health(self._watch.status(), self._limits).alive

    def _end_without_reader(self) -> None:
        self.reader_gone.set()
        self._stop.set()


def _check_folders(config: WatchConfig) -> None:
    """Check that no pictures are saved where a camera reads images: it would read each as a new one, without an end.

    Raises:
        InputError: some are.
    """
    read = {os.path.realpath(camera.source) for camera in config.cameras if is_folder(Path(camera.source))}
    for path in (sink.path for sink in config.sinks if isinstance(sink, CropsSettings)):
        if is_folder(path) and os.path.realpath(path) in read:
            raise InputError(f"cannot save pictures in {path}: images are read from there; choose another folder")


def _all_of(callbacks: Sequence[OnFrame]) -> OnFrame:
    def call(live: LiveFrame) -> None:
        for callback in callbacks:
            callback(live)

    return call
