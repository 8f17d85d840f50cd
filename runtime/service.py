"""A run of the camera loop with all that surrounds it: sinks, state folder, monitoring, a model that can be renewed.

`watch` is the loop alone, for whoever builds something of it; `service` is what `twincar-edge watch` runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.collect import Collector
from twincar_edge.runtime.configuration.config import WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.loop.footage import Footage
from twincar_edge.runtime.monitoring.health import HealthLimits, check_health
from twincar_edge.runtime.monitoring.status import LoopStatus
from twincar_edge.runtime.monitoring.systemd import Notifier
from twincar_edge.runtime.reload import ModelReloader
from twincar_edge.runtime.sinks import Delivery, Terms, crop_name, running
from twincar_edge.runtime.sinks.clips import clip_name
from twincar_edge.runtime.sinks.filming import Filming
from twincar_edge.runtime.sinks.opening import needs_state, open_filming, open_sinks
from twincar_edge.runtime.storage.state import StateFolder
from twincar_edge.runtime.watch import Watch, WatchSummary

_COLLECT = Terms(types=frozenset({"end"}), limit=16, crops=True, retry=False)


@dataclass(frozen=True)
class Service:
    """A run that is ready to go.

    Attributes:
        run: runs it to its end, and returns the summary.
        reload: asks for the model file to be read again; returns at once, and may be called from a signal handler.
        status: how it is now; may be called from any thread.
        url: where it is monitored, or None.
        reader_gone: set when whoever read the events on standard output has gone, which ends the run.
    """

    run: Callable[[], WatchSummary]
    reload: Callable[[], None]
    status: Callable[[], LoopStatus]
    url: str | None
    reader_gone: threading.Event


@contextmanager
def service(config: WatchConfig, *, stop: threading.Event | None = None) -> Iterator[Service]:
    """Open all that a run needs; leaving closes it, and lets the sinks take what waits for some seconds.

    Args:
        config: the cameras, the model, and what surrounds them.
        stop: ends the run after the current frames.

    Raises:
        InputError: a camera, sink, folder or address cannot be used, or another process uses the state folder.
        ModelError: the model cannot be used, or does not answer here as it did at export.
    """
    stop = stop or threading.Event()
    reader_gone = threading.Event()

    def leave() -> None:
        reader_gone.set()
        stop.set()

    with ExitStack() as stack:
        state = None
        if config.state is not None or needs_state(config.sinks):
            state = stack.enter_context(StateFolder(config.state))
        names = [camera.name for camera in config.cameras]
        deliveries = open_sinks(config.sinks, state, cameras=names, on_gone=leave, stop=stop)
        collector = None if config.collect is None else Collector(config.collect, config.collect_limit)
        if collector is not None:
            deliveries.append(Delivery(collector, "hard examples", _COLLECT, stop=stop))
        filming = open_filming(config.sinks, stop=stop)
        queues: list[Delivery | Filming] = [*deliveries, *([filming] if filming is not None else [])]
        footage = None if filming is None else lambda: Footage(filming.put, filming.rules)
        outlet = _Outlet(deliveries, queues, {options.kind for options in config.sinks})
        seen = None if state is None else state.folder
        run = stack.enter_context(Watch(config, [outlet], stop=stop, seen=seen, footage=footage))
        if not any(camera.newest_only for camera in run.cameras):
            for queue in queues:
                queue.wait_for_room()

        def status() -> LoopStatus:
            now = run.status()
            return replace(
                now,
                model=replace(now.model, reloads=reloader.counts()),
                sinks=tuple(queue.status() for queue in queues),
                collector=None if collector is None else collector.status(),
            )

        limits = HealthLimits()
        notifier = Notifier.from_environment(lambda: check_health(status(), limits).alive)
        reloader = ModelReloader(
            run.answering.classifier.session,
            run.answering.use,
            allow_drift=config.allow_drift,
            notifier=notifier,
        )
        stack.enter_context(notifier)
        stack.enter_context(reloader)
        url = None
        if config.monitor is not None:
            from twincar_edge.runtime.monitoring.server import Monitoring  # a run that serves nothing starts without it

            url = stack.enter_context(Monitoring(config.monitor, status, limits)).url

        def go() -> WatchSummary:
            notifier.ready(f"watching {', '.join(names)}")
            return run.run()

        yield Service(go, reloader.request, status, url, reader_gone)


class _Outlet:
    """All deliveries as one sink: opened together, and closed together, their deadlines side by side."""

    def __init__(self, deliveries: Sequence[Delivery], queues: Sequence[Delivery | Filming], kinds: Set[str]) -> None:
        self._deliveries = deliveries
        self._queues = queues
        self._kinds = kinds
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(running(self._queues))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, event: Event, crop_bgr: NDArray[np.uint8]) -> None:
        """Hand an event to every delivery; where pictures or clips are saved, the event says under which name."""
        if event.type == "end" and not event.false_positive:
            crop = crop_name(event) if "crops" in self._kinds else None
            clip = clip_name(event) if "clips" in self._kinds and event.first_time_s is not None else None
            if crop is not None or clip is not None:
                event = event.model_copy(update={"crop": crop, "clip": clip})
        for delivery in self._deliveries:
            delivery.put(event, crop_bgr)
