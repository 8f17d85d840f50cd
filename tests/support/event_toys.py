"""Events for sinks, and a way to wait for a condition."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from twincar_edge.runtime.events import ClassifierRecord, Event, Lead, NamedProbability

CROP = np.full((40, 60, 3), (30, 30, 200), np.uint8)
MOMENT = datetime(2025, 3, 1, 12, 0, 15, 40_000, tzinfo=UTC)


def visit(**changes: Any) -> Event:
    """Return a visit's last event, with changes."""
    fields: dict[str, Any] = {
        "type": "end",
        "camera": "gate",
        "level": "year",
        "id": "6a75204e-69b9-476e-955d-c5f3d2ecaadf",
        "source": "gate.mp4",
        "name": "Castor Red Sedan 2020",
        "probability": 0.9,
        "make": "Castor",
        "model": "Red",
        "body_type": "Sedan",
        "year": 2020,
        "top5": (
            NamedProbability(name="Castor Red Sedan 2020", probability=0.9),
            NamedProbability(name="Pollux Blue SUV 2021", probability=0.1),
        ),
        "crops": 4,
        "direction": "left_to_right",
        "first_time_s": 1.0,
        "last_time_s": 2.5,
        "first_frame": 25,
        "last_frame": 62,
        "best_frame": 40,
        "box_xyxy": (10, 20, 70, 60),
        "deciding_frames": (40, 38),
        "course": (Lead(name="Castor Red Sedan 2020", probability=0.9, frame=60),),
        "started_at": MOMENT,
        "ended_at": MOMENT + timedelta(seconds=2),
        "classifier": ClassifierRecord(name="tiny", sha256="0" * 64, precision="fp32", ep="cpu"),
    }
    return Event(**{**fields, **changes})


def visits(count: int, first: int = 0) -> list[Event]:
    """Return `count` visits, one per second, whose ids are their numbers."""
    return [
        visit(id=str(number), started_at=MOMENT + timedelta(seconds=number)) for number in range(first, first + count)
    ]


def schema_2_json(event: Event) -> str:
    """Return the event as a release with schema 2 stored it."""
    later = {"familiarity", "vehicle_type", "deciding_frames", "course", "provisional", "merged", "interrupted"}
    return json.dumps(event.model_dump(mode="json", exclude=later) | {"schema_version": 2})


def eventually(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until a condition holds; fail after a timeout that is much longer than it should take."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.005)
