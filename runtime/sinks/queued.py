"""What the sender of a delivery takes from its queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from twincar_edge.runtime.sinks.base import Crop

E = TypeVar("E")  # an event, or a clip


@dataclass(frozen=True, eq=False)
class Item(Generic[E]):
    """An event in memory, with its number, its picture and the time when it was queued."""

    number: int
    event: E
    crop_bgr: Crop
    queued_at_s: float


@dataclass(frozen=True)
class OnDisk:
    """The next event is on disk: the first with a number above `after`, at most `through`."""

    after: int
    through: int


@dataclass(frozen=True)
class Idle:
    """No event arrived within the timeout."""
