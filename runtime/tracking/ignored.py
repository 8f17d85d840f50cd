"""Counts the moving things that a locator ignored, by reason: things, not frames.

A thing that is too small in forty frames counts once, and one that is too small at first and large enough later is a
vehicle. So ignored boxes are tracked together with accepted ones, by the same association.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from twincar_edge.runtime.locating.boxes import Box, Detection, Ignored, IgnoredReason, area, center, diagonal
from twincar_edge.runtime.tracking.association import Handle, Moving

_EVERY_S = 0.1  # between two frames: counting needs no more, and tracking costs as much as for vehicles
_TRAVELLED = 1.0  # of its diagonal: leaves, lamps and shadows hardly move
_TELLING = 20  # enough small things to judge the camera's view,
_RARE = 0.1  # if there are at most this many vehicles per small thing
_MOST_AREAS = 200
_MARGIN = 1.1  # times its own area: a locator's box may be so much larger than what it compares with the least area


@dataclass
class _Thing:
    first_box: Box
    last_time_s: float
    hits: int = 0
    largest: float = 0.0
    traveled: bool = False
    accepted: bool = False
    reasons: Counter[IgnoredReason] = field(default_factory=Counter)

    def see(self, box: Box, time_s: float) -> None:
        self.last_time_s = time_s
        self.hits += 1
        self.largest = max(self.largest, area(box))
        (x, y), (first_x, first_y) = center(box), center(self.first_box)
        farther = _TRAVELLED * max(diagonal(box), diagonal(self.first_box))
        self.traveled |= abs(x - first_x) > farther or abs(y - first_y) > farther


class IgnoredCounter:
    """Counts the moving things of one camera that its locator never accepted.

    Attributes:
        counts: things that have left, by their most frequent reason.
    """

    def __init__(self, least_hits: int, lost_after_s: float) -> None:
        """Count a thing after `least_hits` frames; it has left after `lost_after_s` seconds without a match."""
        self.counts: Counter[IgnoredReason] = Counter()
        self._least_hits = least_hits
        self._lost_after_s = lost_after_s
        self._matcher = Moving()
        self._looked_s = -math.inf
        self._things: dict[Handle, _Thing] = {}
        self._areas: deque[float] = deque(maxlen=_MOST_AREAS)  # of the newest small things, the largest area of each

    def update(self, accepted: Sequence[Detection], ignored: Sequence[Ignored], time_s: float) -> None:
        """Process a frame's accepted and ignored boxes; at most ten frames a second are used."""
        if time_s - self._looked_s < _EVERY_S or (not ignored and not self._things):
            return
        self._looked_s = time_s
        boxes = [*accepted, *(Detection(one.box_xyxy) for one in ignored)]
        reasons = [*(None for _ in accepted), *(one.reason for one in ignored)]
        for handle, detection, reason in zip(self._matcher.match(boxes, time_s), boxes, reasons, strict=True):
            if handle is None:
                continue
            thing = self._things.setdefault(handle, _Thing(detection.box_xyxy, time_s))
            thing.see(detection.box_xyxy, time_s)
            if reason is None:
                thing.accepted = True
            else:
                thing.reasons[reason] += 1
        self._end(time_s - self._lost_after_s)

    def better_area(self, vehicles: int, frame_px: int) -> float | None:
        """Return the `min_area` that would have counted nine in ten small things, to one significant digit.

        Args:
            vehicles: the number of vehicles found.
            frame_px: the number of pixels in a frame.

        Returns:
            None if too few things were small, or enough vehicles were found.
        """
        small = self.counts["small"]
        if small < _TELLING or vehicles > _RARE * small:
            return None
        share = float(np.quantile(self._areas, 0.1)) / _MARGIN / frame_px
        digit = 10.0 ** math.floor(math.log10(share))
        return round(digit * math.floor(share / digit), 9)

    def flush(self) -> None:
        """Count the things still in view, at the end of the source."""
        self._end(float("inf"))

    def _end(self, before_s: float) -> None:
        gone = {handle: thing for handle, thing in self._things.items() if thing.last_time_s < before_s}
        self._matcher.forget(gone)
        for handle, thing in gone.items():
            del self._things[handle]
            if thing.traveled and not thing.accepted and thing.hits >= self._least_hits:
                reason = thing.reasons.most_common(1)[0][0]
                self.counts[reason] += 1
                if reason == "small":
                    self._areas.append(thing.largest)
