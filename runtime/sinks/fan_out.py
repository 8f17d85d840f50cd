"""Passes the loop's events to all deliveries."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import ExitStack
from functools import partial

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.acknowledging import Acknowledger, Action
from twincar_edge.runtime.sinks.base import Crop, Sink
from twincar_edge.runtime.sinks.clip_saver import ClipSaver
from twincar_edge.runtime.sinks.clips import clip_name
from twincar_edge.runtime.sinks.delivery import Delivery
from twincar_edge.runtime.sinks.running import running
from twincar_edge.runtime.sinks.snapshots import crop_name


class FanOut(Sink):
    """A sink that passes events to all deliveries. It opens them together, and closes them in parallel.

    The list of open visits (`keeper`) forgets a visit only once its `end` is safe, so that a kill cannot lose it.
    """

    def __init__(
        self,
        deliveries: Sequence[Delivery],
        queues: Sequence[Delivery | ClipSaver],
        keeper: Delivery | None,
        kinds: Set[str],
    ) -> None:
        """Pass events to `deliveries` and the `keeper`; run these and the `queues`. `kinds` are those of the sinks."""
        self._deliveries = deliveries
        self._queues = queues
        self._keeper = keeper
        self._kinds = kinds
        self._acknowledger = Acknowledger(deliveries)
        self._stack = ExitStack()

    def open(self) -> None:
        """Open all queues.

        Raises:
            InputError: the settings of a sink can never work.
        """
        with ExitStack() as stack:  # closed in reverse order
            if self._keeper is not None:
                stack.enter_context(self._keeper)
            stack.enter_context(self._acknowledger)
            stack.enter_context(running(self._queues))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Drain and close all queues, then forget what they have."""
        self._stack.close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Queue an event for every delivery, with the file names of its crop and clip if these are saved."""
        if event.type == "end" and not event.false_positive and not event.interrupted:
            crop = crop_name(event) if "crops" in self._kinds else None
            clip = clip_name(event) if "clips" in self._kinds and event.first_time_s is not None else None
            if crop is not None or clip is not None:
                event = event.model_copy(update={"crop": crop, "clip": clip})
        for delivery in self._deliveries:
            delivery.put(event, crop_bgr)
        if self._keeper is not None and event.type == "end":
            self.when_safe(partial(self._keeper.put, event))
        elif self._keeper is not None:
            self._keeper.put(event)

    def when_safe(self, action: Action) -> None:
        """Call `action` once all events written so far are delivered or on disk."""
        self._acknowledger.when_safe(action)

    def faults(self) -> list[str]:
        """Return a line if the thread that calls the actions failed recently."""
        return self._acknowledger.faults()
