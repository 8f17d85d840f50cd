"""The answering thread: classifies the crops of all cameras, and publishes the events of their visits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.events import Event, Limit
from twincar_edge.runtime.evidence import AGREEING_CROPS
from twincar_edge.runtime.inference.answers import UNKNOWN, Level, certainty
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box, Ignored
from twincar_edge.runtime.loop.inbox import Crop, End, Handled, Inbox, Item, Shown
from twincar_edge.runtime.monitoring.drift import AnswerWindows
from twincar_edge.runtime.monitoring.durations import Durations
from twincar_edge.runtime.monitoring.stages import Stages
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.visits import Visit, VisitMaker
from twincar_edge.wording import titled

logger = logging.getLogger(__name__)

TURN_S = 0.5  # timeout of the wait for items: the loop iterates at least this often, as a sign of life


@dataclass(frozen=True)
class LiveTrack:
    """A vehicle in a frame, for drawing: its box in pixels, and the answer so far.

    `name` and `level` are None until its first crop is classified, and "unknown" if the model rejects it. `certainty`
    is the probability as text; for "unknown", the rejected guess. `crops` is the number of crops behind the answer.
    `published`: whether an event of the vehicle was published.
    """

    id: int
    box_xyxy: Box
    name: str | None
    level: Level | None
    certainty: str
    crops: int
    published: bool


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A processed frame of a camera, its vehicles, and what the locator ignored, for drawing."""

    camera: str
    frame: Frame
    tracks: tuple[LiveTrack, ...]
    ignored: tuple[Ignored, ...] = ()


OnFrame = Callable[[LiveFrame], None]
Publish = Callable[[Event, NDArray[np.uint8]], None]
WhenSafe = Callable[[Callable[[], None]], None]


class Answering:
    """Classifies the queued crops of all cameras, and publishes the resulting events.

    A batch is whatever is queued; the loop never waits to fill one. It is one crop if the model keeps up, else more.

    Attributes:
        classifier: the model in use.
        crops: the number of crops classified so far.
        turned_s: the start of the loop's last iteration, by its timer.
        age_s: by camera, the age of the frame behind its newest answer when that was given.
        ages: by camera, the same of all answers.
        visits: the number of visits that have ended, by camera and level of the answer.
        vehicle_types: the number of visits that have ended, by camera and kind of vehicle.
        windows: the answers of visits in the last hour and in the week before.
        limited: the number of visits with a limited answer, by camera and reason.
    """

    def __init__(
        self,
        inbox: Inbox,
        classifier: Classifier,
        makers: Mapping[str, VisitMaker],
        publish: Publish,
        stages: Stages,
        *,
        batch: int,
        on_frame: OnFrame | None = None,
        when_safe: WhenSafe = lambda action: action(),
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            inbox: the queue that the cameras' threads fill.
            classifier: the model.
            makers: by camera, the maker of its events.
            publish: takes each event with the crop that shows it, and must not block.
            stages: measures latencies.
            batch: the largest batch size, in crops.
            on_frame: called after each frame with the vehicles in it.
            when_safe: calls its argument once the events published so far are delivered or on disk; must not block.
        """
        self.classifier = classifier
        self.crops = 0
        self.turned_s = stages.timer()
        self.age_s: dict[str, float] = {}
        self.ages = {camera: Durations() for camera in makers}
        self.visits: Counter[tuple[str, str]] = Counter()
        self.vehicle_types: Counter[tuple[str, str]] = Counter()
        self.windows = AnswerWindows()
        self.limited: Counter[tuple[str, Limit]] = Counter()
        self._inbox = inbox
        self._makers = makers
        self._publish = publish
        self._stages = stages
        self._batch = batch
        self._on_frame = on_frame
        self._when_safe = when_safe

    def use(self, classifier: Classifier) -> None:
        """Use another model from the next batch on; may be called from any thread."""
        self.classifier = classifier
        self.windows.clear()

    def limited_of(self, camera: str) -> dict[Limit, int]:
        """Return the number of a camera's visits with a limited answer, by reason."""
        return {limit: count for (name, limit), count in list(self.limited.items()) if name == camera}

    def run(self) -> None:
        """Process items until every camera's thread has ended and the inbox is empty.

        Raises:
            ModelError: the model failed.
        """
        while (items := self._inbox.take(self._batch, TURN_S)) is not None:
            self.turned_s = self._stages.timer()
            self._answer(items)

    def _answer(self, items: Sequence[Item]) -> None:
        classifier = self.classifier  # another thread may replace it meanwhile
        answers = iter(self._classify(classifier, [item for item in items if isinstance(item, Crop)]))
        for item in items:  # keep the order: a vehicle's end comes after its last crop
            if isinstance(item, Crop):
                probabilities, familiarity = next(answers)
                item.visit.evidence.add(item.crop, probabilities, classifier, familiarity)
                self._publish_if_due(item)
            elif isinstance(item, End):
                self._end(item)
            elif isinstance(item, Handled):
                self._when_safe(partial(item.source.handled, item.index))
            else:
                self._show(item)

    def _publish_if_due(self, item: Crop) -> None:
        """Publish the event of a crop: once enough crops agree, or immediately with `early_start`."""
        maker, visit = self._makers[item.camera], item.visit
        settled = item.counts and visit.evidence.crops >= AGREEING_CROPS
        if settled or visit.started or (maker.early_start and not maker.stills):
            self._publish_event(maker.next_event(visit, confirmed=item.counts), visit)

    def _classify(
        self, classifier: Classifier, crops: Sequence[Crop]
    ) -> Sequence[tuple[NDArray[np.float32], float | None]]:
        if not crops:
            return ()
        with self._stages.stage("classify"):
            rows = list(classifier.judge([crop.crop.picture_bgr for crop in crops]).rows())
        self.crops += len(crops)
        answered_s = self._stages.timer()
        for crop in crops:
            age_s = self.age_s[crop.camera] = answered_s - crop.taken_s
            self.ages[crop.camera].add(age_s)
        return rows

    def _end(self, item: End) -> None:
        visit, maker = item.visit, self._makers[item.camera]
        if not item.counts:
            if visit.started:  # tell the receivers of its `start` that it was a false positive
                self._publish_event(maker.finish(visit, false_positive=True), visit)
            return
        if not visit.evidence.crops:
            return
        if not maker.stills and not visit.started:
            self._publish_event(maker.next_event(visit), visit)
        event = maker.finish(visit)
        self.visits[item.camera, event.level] += 1
        self.vehicle_types[item.camera, event.vehicle_type or UNKNOWN] += 1
        self.windows.add(event, self._stages.timer())
        if (limit := visit.evidence.limit) is not None:
            self.limited[item.camera, limit] += 1
        if event.merged:
            logger.info("%s: visit %s shows two vehicles, one after the other", titled("camera", item.camera), visit.id)
        self._publish_event(event, visit)

    def _publish_event(self, event: Event | None, visit: Visit) -> None:
        if event is not None and visit.shown is not None:
            with self._stages.stage("write"):
                self._publish(event, visit.shown.picture_bgr)

    def _show(self, item: Shown) -> None:
        if self._on_frame is None:
            return
        tracks = tuple(_live_track(*vehicle) for vehicle in item.vehicles)
        self._on_frame(LiveFrame(item.camera, item.frame, tracks, item.ignored))


def _live_track(number: int, box: Box, visit: Visit) -> LiveTrack:
    crops = visit.evidence.crops
    if not crops:
        return LiveTrack(number, box, None, None, "", 0, visit.started)
    answer = visit.evidence.answer()
    return LiveTrack(number, box, answer.name, answer.level, certainty(answer), crops, visit.started)
