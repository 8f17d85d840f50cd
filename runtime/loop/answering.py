"""The answering thread: crops of all cameras through one model, and what it says of each vehicle to the sinks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.evidence import Evidence
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.loop.inbox import Crop, End, Inbox, Item, Shown
from twincar_edge.runtime.monitoring.stages import Stages
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.visits import VisitMaker

TURN_S = 0.5  # without anything to do; so often the thread shows that it lives, and takes a new model


@dataclass(frozen=True)
class LiveTrack:
    """A vehicle in a frame, for drawing: its box in pixels, and what the model says of it so far.

    `name` is None until the track is confirmed and its first crop classified; it is "unknown" where the model rejects.
    """

    id: int
    box_xyxy: Box
    name: str | None
    probability: float


OnFrame = Callable[[Frame, Sequence[LiveTrack]], None]
Publish = Callable[[Event, NDArray[np.uint8]], None]


class Answering:
    """Takes what waits in the inbox, whatever camera it is from, and tells what becomes of it.

    A batch is what happens to be waiting, never waited for: one crop where the model keeps up, more where it does not.

    Attributes:
        crops: answered so far.
        turned_s: when the loop last turned, by its timer.
        age_s: how old the frame of each camera's newest answer was when it was answered.
        visits: how many visits have ended, by camera and level of the answer.
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
        stills: frozenset[str] = frozenset(),
        on_frame: OnFrame | None = None,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            inbox: where the cameras' threads put what they found.
            classifier: the model.
            makers: makes each camera's events.
            publish: takes each event with the vehicle's best crop, and must not block.
            stages: measures.
            batch: crops in one inference, at most.
            stills: the cameras whose images stand alone: their visits end at once, and have no start.
            on_frame: called after each frame with the vehicles in it.
        """
        self.crops = 0
        self.turned_s = stages.timer()
        self.age_s: dict[str, float] = {}
        self.visits: Counter[tuple[str, str]] = Counter()
        self._inbox = inbox
        self._classifier = classifier
        self._makers = makers
        self._publish = publish
        self._stages = stages
        self._batch = batch
        self._stills = stills
        self._on_frame = on_frame
        self._next_classifier: Classifier | None = None
        self._swap = threading.Lock()

    @property
    def classifier(self) -> Classifier:
        """Return the model that answers now."""
        return self._classifier

    def use(self, classifier: Classifier) -> None:
        """Answer with another model from the next batch on; may be called from any thread."""
        with self._swap:
            self._next_classifier = classifier

    def run(self) -> None:
        """Answer until every camera's thread has left and nothing waits any more.

        Raises:
            ModelError: the model failed.
        """
        while (items := self._inbox.take(self._batch, TURN_S)) is not None:
            self.turned_s = self._stages.timer()
            self._take_new_model()
            self._answer(items)

    def _take_new_model(self) -> None:
        with self._swap:
            new, self._next_classifier = self._next_classifier, None
        if new is not None:
            self._classifier = new
            for maker in self._makers.values():
                maker.use(new)

    def _answer(self, items: Sequence[Item]) -> None:
        crops = [item for item in items if isinstance(item, Crop)]
        rows: list[NDArray[np.float32]] = []
        if crops:
            with self._stages.stage("classify"):
                rows.extend(self._classifier.probabilities([one.look.picture_bgr for one in crops]))
            self.crops += len(crops)
            answered_s = self._stages.timer()
            for one in crops:
                self.age_s[one.camera] = answered_s - one.taken_s
        answers = iter(rows)
        for item in items:  # in their order: a vehicle's end comes behind its last crop
            if isinstance(item, Crop):
                item.evidence.add(item.look, next(answers))
                if item.counts:
                    self._tell(self._makers[item.camera].news(item.evidence), item.evidence)
            elif isinstance(item, End):
                self._end(item)
            else:
                self._show(item)

    def _end(self, item: End) -> None:
        evidence, maker = item.evidence, self._makers[item.camera]
        if not item.counts:
            if evidence.started:  # whoever was told of it has to hear that it was none
                self._tell(maker.finish(evidence, false_positive=True), evidence)
            return
        if not evidence.crops:
            return
        if item.camera not in self._stills and not evidence.started:
            self._tell(maker.news(evidence), evidence)
        event = maker.finish(evidence)
        self.visits[item.camera, event.level] += 1
        self._tell(event, evidence)

    def _tell(self, event: Event | None, evidence: Evidence) -> None:
        if event is not None:
            with self._stages.stage("write"):
                self._publish(event, evidence.best_crop)

    def _show(self, item: Shown) -> None:
        if self._on_frame is None:
            return
        tracks = []
        for number, box, evidence in item.vehicles:
            if evidence.crops:
                result = self._makers[item.camera].answer(evidence)
                tracks.append(LiveTrack(number, box, result.name, result.probability))
            else:
                tracks.append(LiveTrack(number, box, None, 0.0))
        self._on_frame(item.frame, tracks)
