"""The events of a vehicle's visit: what the camera loop publishes.

A visit is one vehicle's stay in view. It has a `start` event when it gets its first answer, an `update` event whenever
the answer changes, and an `end` event when the vehicle has left. All have the same id, and each is complete. If a
published visit turns out not to be a vehicle, the `end` event says so. docs/events.md documents the fields and is
tested against this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field, model_validator

from twincar_edge.manifest import Precision
from twincar_edge.records import Record, Share
from twincar_edge.runtime.inference.answers import Level as Level

SCHEMA_VERSION: Literal[3] = 3
EventType = Literal["start", "update", "end"]
Direction = Literal["left_to_right", "right_to_left", "up", "down", "none"]
Limit = Literal["merged", "cut", "small"]
"""Why an answer is limited: the visit shows two vehicles, or all crops are cut by the frame's border, or too small."""
MAX_DECIDING_FRAMES = 16
MAX_LEADS = 16


class NamedProbability(Record):
    """One class and its probability."""

    name: str
    probability: Share


class Lead(NamedProbability):
    """The most probable class by all crops up to a frame, and its probability at that frame."""

    frame: int


class ClassifierRecord(Record):
    """The model that classified the visit: the manifest's name and precision, the file's SHA-256, the provider."""

    name: str
    sha256: str
    precision: Precision
    ep: str


class Event(Record):
    """The state of one vehicle's visit when it starts, changes or ends; docs/events.md describes each field.

    >>> event = next(tw.watch(tw.demo_clip(), model=tw.demo_model(), name="gate"))
    >>> event.type, event.make, event.level
    ('start', 'Pollux', 'year')
    >>> event.to_dict()["camera"]
    'gate'
    """

    # The schema is for receivers, so its description leaves out the example in Python.
    model_config = ConfigDict(
        json_schema_extra={"description": "The state of one vehicle's visit when it starts, changes or ends."}
    )

    schema_version: Literal[3] = SCHEMA_VERSION
    type: EventType
    id: str
    camera: str
    source: str
    zone: str | None = None
    image: str | None = None
    recording: str | None = None
    name: str
    level: Level
    probability: Share
    familiarity: float | None = None
    make: str | None
    model: str | None
    body_type: str | None
    year: int | None
    vehicle_type: str | None = None
    top5: tuple[NamedProbability, ...]
    crops: int = Field(ge=1)
    direction: Direction
    first_time_s: float | None
    last_time_s: float | None
    first_frame: int
    last_frame: int
    best_frame: int
    box_xyxy: tuple[int, int, int, int]
    deciding_frames: tuple[int, ...] = Field(default=(), max_length=MAX_DECIDING_FRAMES)
    course: tuple[Lead, ...] = Field(default=(), max_length=MAX_LEADS)
    crop: str | None = None
    clip: str | None = None
    started_at: AwareDatetime
    ended_at: AwareDatetime | None
    provisional: bool = False
    false_positive: bool = False
    merged: bool = False
    interrupted: bool = False
    classifier: ClassifierRecord

    @model_validator(mode="before")
    @classmethod
    def _read_schema_2(cls, data: Any) -> Any:
        """Read a stored or spooled event of schema 2: the fields that it lacks have defaults."""
        if isinstance(data, dict) and data.get("schema_version") == 2:
            return data | {"schema_version": SCHEMA_VERSION}
        return data

    def to_json(self) -> str:
        """Return the event as one line of JSON."""
        return self.model_dump_json()

    def to_dict(self) -> dict[str, Any]:
        """Return the event's fields as one row for a `pandas.DataFrame`.

        Times are `datetime`s. `top5` and `course` are lists of dicts, `box_xyxy` is a tuple. The fields of `classifier`
        are separate columns: `classifier_name`, `classifier_sha256`, …
        """
        row = self.model_dump(exclude={"classifier", "course", "top5"})
        row["top5"] = [guess.model_dump() for guess in self.top5]
        row["course"] = [lead.model_dump() for lead in self.course]
        return row | {f"classifier_{name}": value for name, value in self.classifier}


class StoredEvent:
    """An event from a store or spool, with its text unchanged; another version of the program may have written it.

    Attributes:
        text: one line of JSON.
        id: the visit's id.
        type: `start`, `update` or `end`.
        camera: the camera's name.
        false_positive: the visit turned out not to be a vehicle.
    """

    def __init__(self, text: str) -> None:
        """Read the fields that every version writes.

        Raises:
            ValueError: the text is not a JSON object with an id, a type and a camera.
        """
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        names = [fields.get(name) for name in ("id", "type", "camera")]
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError("no id, type or camera")
        self.text = text
        self.id, self.type, self.camera = map(str, names)
        self.false_positive = fields.get("false_positive") is True

    def to_json(self) -> str:
        """Return the text."""
        return self.text


def schema_file() -> Path:
    """Return the path of the packaged JSON schema of events; there is one file per schema version."""
    return Path(__file__).parent / "schemas" / f"event-{SCHEMA_VERSION}.json"


def schema_json() -> str:
    """Return the JSON schema of the events that this code writes; `schema_file` must have the same text.

    To update the file after a change to `Event`: `python -c "from twincar_edge.runtime.events import *;
    schema_file().write_text(schema_json())"`.
    """
    return json.dumps(Event.model_json_schema(mode="serialization"), indent=1) + "\n"
