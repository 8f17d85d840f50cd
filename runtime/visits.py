"""A vehicle's visit in progress, and its events: `start`, `update`, `end`.

`published.py` decides when an event repeats, extends or corrects the answer. The `end` event does not depend on earlier
events: it has the answer of all crops. docs/events.md describes the events.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from twincar_edge.runtime.events import ClassifierRecord, Direction, Event, EventType, NamedProbability
from twincar_edge.runtime.evidence import Evidence, VehicleCrop
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.locating.boxes import AnyBox, Box, center, diagonal
from twincar_edge.runtime.published import PublishedAnswer
from twincar_edge.runtime.sources import Frame

_RECORDING_NAMESPACE = uuid.UUID("6f0d0c1e-6b1c-5f5e-9a57-0d0f6d2f1c3b")  # for visit ids in files
_MIN_TRAVEL = 0.25  # of a box's diagonal; a vehicle that moves less has no direction


class Visit:
    """One vehicle's stay in view.

    The camera's thread updates the vehicle's position, while the answering thread adds crops and publishes answers.

    Attributes:
        id: the visit's id.
        started_at: the time of day at which the vehicle was first seen.
        began_s: the same in monotonic seconds.
        ended_s: when its track ended; None until then. Set by the camera's thread.
        image: the first frame's name.
        recording: the digest of the first frame's file, or None.
        confirmed: the tracker considers it a vehicle; set by the camera's thread.
        zone: the zone in which the vehicle was last seen, or None.
        evidence: the combined evidence of its crops.
        shown: the crop of its last event, or None before the first event.
        provisional: its last event was published before it was confirmed.
        published: the answer in its last event.
    """

    def __init__(
        self, id: str, started_at: datetime, frame: Frame, box: Box, *, began_s: float = 0.0, single: bool = False
    ) -> None:
        """Begin a visit with the first frame that shows the vehicle, and its box there, in pixels.

        `began_s` is the time of that frame in monotonic seconds; for `single`, see `Evidence`.
        """
        self.id = id
        self.started_at = started_at
        self.began_s = began_s
        self.ended_s: float | None = None
        self.image = frame.name
        self.recording = frame.recording
        self.confirmed = False
        self.zone: str | None = None
        self.evidence = Evidence(single=single)
        self.shown: VehicleCrop | None = None
        self.provisional = False
        self.published = PublishedAnswer()
        # Each is replaced as a whole, so that the other thread never reads a partial update.
        self._first = self._last = (frame.index, frame.time_s, box)

    def see(self, frame: Frame, box: Box, kind: str | None = None) -> None:
        """Record that the vehicle is in this frame too, with its box and its current vehicle type."""
        self.evidence.vehicle_type = kind
        self._last = (frame.index, frame.time_s, box)

    @property
    def started(self) -> bool:
        """Return whether an answer was published."""
        return self.published.prediction is not None

    @property
    def frames(self) -> tuple[int, int]:
        """Return the indices of the first and the last frame in which the vehicle was seen."""
        return self._first[0], self._last[0]

    @property
    def times_s(self) -> tuple[float, float]:
        """Return the times of these frames in the source, in seconds."""
        return self._first[1], self._last[1]

    @property
    def direction(self) -> Direction:
        """Return the direction of travel from the first box to the last."""
        return travel_direction(self._first[2], self._last[2])


class VisitMaker:
    """Creates the visits of one camera and their events.

    One thread may call `begin` while another one creates events.

    Attributes:
        stills: the source gives single images. Visits then have no `start` event; their events have the image's name
            instead of times in the source.
    """

    def __init__(
        self,
        source: str,
        *,
        camera: str = "camera",
        stills: bool = False,
        early_start: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        """Store what all visits of a camera share.

        Args:
            source: the source's name, without secrets.
            camera: the camera's name.
            stills: the source gives single images.
            early_start: publish a visit as soon as it has an answer, before it is confirmed.
            clock: returns the time of day, with a time zone, for the start of a visit.
            monotonic: the monotonic clock, in seconds, for its duration; the time of day may be adjusted meanwhile.
            new_id: returns a visit's id. By default, visits in a file get the same ids in every run over a file with
                that content, and visits of a live camera get random ids.
        """
        self._source = source
        self._camera = camera
        self.stills = stills
        self.early_start = early_start
        self._clock = clock
        self._monotonic = monotonic
        self._new_id = new_id

    def begin(self, frame: Frame, box: Box) -> Visit:
        """Return a new visit that begins now, with this frame."""
        id = self._new_id() if self._new_id is not None else self._id(frame, box)
        return Visit(id, self._clock(), frame, box, began_s=self._monotonic(), single=self.stills)

    def _duration(self, visit: Visit) -> timedelta:
        ended_s = self._monotonic() if visit.ended_s is None else visit.ended_s
        return timedelta(seconds=max(0.0, ended_s - visit.began_s))

    def _id(self, frame: Frame, box: Box) -> str:
        if frame.recording is None:
            return str(uuid.uuid4())
        index = 0 if self.stills else frame.index  # an image's id must not depend on its position in the folder
        return str(uuid.uuid5(_RECORDING_NAMESPACE, f"{frame.recording} {self._camera} {index} {box}"))

    def next_event(self, visit: Visit, *, confirmed: bool = True) -> Event | None:
        """Return the event to publish after a crop was added, or None.

        The first event is a `start`. An `update` follows when the answer changes, and when a provisional visit is
        `confirmed`.
        """
        kind: EventType = "update" if visit.started else "start"
        answer = visit.published.update(visit.evidence)
        if answer is None and confirmed and visit.provisional:
            answer = visit.published.prediction
        if answer is None:
            return None
        visit.provisional = not confirmed
        return self._event(kind, visit, answer)

    def finish(self, visit: Visit, *, false_positive: bool = False) -> Event:
        """Return the visit's `end` event; `false_positive` marks a visit that was not a vehicle. Needs a crop."""
        visit.provisional = False
        return self._event("end", visit, visit.evidence.answer(), false_positive=false_positive)

    def _event(self, kind: EventType, visit: Visit, result: Prediction, *, false_positive: bool = False) -> Event:
        evidence = visit.evidence
        visit.shown = shown = evidence.shown(result)
        session = evidence.classifier.session
        first_time_s, last_time_s = visit.times_s
        first_frame, last_frame = visit.frames
        return Event(
            type=kind,
            id=visit.id,
            camera=self._camera,
            source=self._source,
            zone=visit.zone,
            image=visit.image if self.stills else None,
            recording=visit.recording,
            name=result.name,
            level=result.level,
            probability=_rounded(result.probability),
            familiarity=None if result.familiarity is None else round(result.familiarity, 6),
            make=result.make,
            model=result.model,
            body_type=result.body_type,
            year=result.year,
            vehicle_type=evidence.vehicle_type,
            top5=tuple(
                NamedProbability(name=guess.name, probability=_rounded(guess.probability)) for guess in result.top5
            ),
            crops=evidence.crops,
            direction=visit.direction,
            first_time_s=None if self.stills else round(first_time_s, 3),
            last_time_s=None if self.stills else round(last_time_s, 3),
            first_frame=first_frame,
            last_frame=last_frame,
            best_frame=shown.frame,
            box_xyxy=shown.box_xyxy,
            deciding_frames=evidence.deciding_frames(result),
            course=evidence.course(),
            started_at=visit.started_at,
            ended_at=visit.started_at + self._duration(visit) if kind == "end" else None,
            provisional=visit.provisional,
            false_positive=false_positive,
            merged=evidence.merged,
            classifier=ClassifierRecord(
                name=session.manifest.name, sha256=session.sha256, precision=session.manifest.precision, ep=session.ep
            ),
        )


def travel_direction(first: AnyBox, last: AnyBox) -> Direction:
    """Return the direction from one box to another, along the axis of the larger movement."""
    (x, y), (u, v) = center(first), center(last)
    if max(abs(u - x), abs(v - y)) < _MIN_TRAVEL * max(diagonal(first), diagonal(last)):
        return "none"
    if abs(u - x) >= abs(v - y):
        return "left_to_right" if u > x else "right_to_left"
    return "down" if v > y else "up"


def _rounded(probability: float) -> float:
    return min(1.0, round(probability, 6))
