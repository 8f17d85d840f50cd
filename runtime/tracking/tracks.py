"""The track of one vehicle: its boxes, motion and predicted position."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.locating.boxes import Box, Detection, diagonal, touches_border

_MEMORY = 0.6  # smoothing: the weight of the old velocity against the measured one
_HASTE = 1.25  # times its speed: margin for a hidden vehicle that accelerates, or whose speed was misjudged
_SIZE_HALVES_S = 2.0  # a vehicle that shrinks for longer is farther away, not hidden
_DRIVES_OFF_S = 1.0  # a vehicle whose box differs for longer is not standing
_STANDS = 0.1  # of its diagonal: a vehicle is standing while no edge moves farther


@dataclass(eq=False)
class Track:
    """One vehicle across frames.

    Attributes:
        id: counts from 1 within a run.
        box_xyxy: where it was last found; `first_box_xyxy` where it was first.
        own_xyxy: the same without joined pieces.
        score: the last detection's.
        first_time_s, last_time_s: of its first and last match.
        hits: frames in which it was found.
        confirmed: it was found often enough to count.
        travel: the farthest that any edge of its box got from its place at the first match, in diagonals of the largest
            box. A vehicle that drives, or nears, travels; a shadow, a lamp or a waving branch does not.
        standing_s: how long it had stood still when it last did, and `stands_xyxy` where.
        parked_xyxy: where it was parked, if it was, until it has moved off from there.
        kind: what a detector calls it: the class with the highest total score over all frames, since a single frame
            may err. None if the locator has no classes.
    """

    id: int
    box_xyxy: Box
    first_time_s: float
    last_time_s: float
    score: float = 1.0
    hits: int = 1
    confirmed: bool = False
    travel: float = 0.0
    standing_s: float = 0.0
    parked_xyxy: Box | None = None
    kind: str | None = None
    _farthest: float = field(default=0.0, repr=False)
    _velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4), repr=False)

    def __post_init__(self) -> None:
        """Record the first detection."""
        self.first_box_xyxy = self.stands_xyxy = self.own_xyxy = self.box_xyxy
        self._largest = diagonal(self.box_xyxy)
        self._size_wh: tuple[float, float] = (
            self.box_xyxy[2] - self.box_xyxy[0],
            self.box_xyxy[3] - self.box_xyxy[1],
        )
        self._stands_since_s = self._stood_s = self.first_time_s
        self._kind_scores: dict[str, float] = {} if self.kind is None else {self.kind: self.score}

    def predicted(self, time_s: float) -> tuple[float, ...]:
        """Return where the box should be at `time_s`, with constant velocity of its edges."""
        moved = np.array(self.box_xyxy) + self._velocity * max(0.0, time_s - self.last_time_s)
        return tuple(float(edge) for edge in moved)

    def has_left(self, time_s: float, size_wh: tuple[int, int]) -> bool:
        """Return whether the box, cut by the frame's border, should have left the frame by now."""
        expected = self.predicted(time_s)
        return touches_border(self.box_xyxy, size_wh) and (expected[0] >= expected[2] or expected[1] >= expected[3])

    def whole(self, time_s: float) -> tuple[float, ...]:
        """Return where the whole vehicle should be at `time_s`, including hidden parts.

        An obstacle hides the leading edge first and reveals the trailing edge last. So the faster edge is the vehicle's
        own and gives its speed, and the earlier size gives the other edge.
        """
        elapsed_s = max(0.0, time_s - self.last_time_s)
        box = [float(edge) for edge in self.box_xyxy]
        for low, high in ((0, 2), (1, 3)):
            size = max(self._size_wh[low], box[high] - box[low])
            if abs(self._velocity[low]) > abs(self._velocity[high]):
                box[low] += float(self._velocity[low]) * elapsed_s
                box[high] = box[low] + size
            else:
                box[high] += float(self._velocity[high]) * elapsed_s
                box[low] = box[high] - size
        return tuple(box)

    def whereabouts(self, time_s: float) -> tuple[float, ...]:
        """Return the box that contains a hidden vehicle at `time_s`, wherever it stopped.

        It reaches from the last seen position to the predicted one at higher speed.
        """
        elapsed_s = max(0.0, time_s - self.last_time_s)
        last, now = self.whole(self.last_time_s), self.whole(self.last_time_s + _HASTE * elapsed_s)
        return min(last[0], now[0]), min(last[1], now[1]), max(last[2], now[2]), max(last[3], now[3])

    def part_from(self) -> None:
        """Forget the size that came from wrongly joined pieces."""
        self.box_xyxy = self.own_xyxy
        self._size_wh = self.own_xyxy[2] - self.own_xyxy[0], self.own_xyxy[3] - self.own_xyxy[1]
        self._largest = diagonal(self.own_xyxy)

    def found(self, detection: Detection, time_s: float, confirm_hits: int) -> None:
        """Add the vehicle's detection in another frame."""
        box = detection.box_xyxy
        if detection.kind is not None:
            self._kind_scores[detection.kind] = self._kind_scores.get(detection.kind, 0.0) + detection.score
            self.kind = max(self._kind_scores, key=self._kind_scores.__getitem__)
        elapsed_s = time_s - self.last_time_s
        if elapsed_s > 0:
            measured = (np.array(box) - np.array(self.box_xyxy)) / elapsed_s
            memory = _MEMORY if self.hits > 1 else 0.0
            self._velocity = memory * self._velocity + (1 - memory) * measured
        self.box_xyxy, self.score, self.last_time_s = box, detection.score, time_s
        self.hits += 1
        self.confirmed |= self.hits >= confirm_hits
        fade = 0.5 ** (elapsed_s / _SIZE_HALVES_S)
        self._size_wh = max(box[2] - box[0], fade * self._size_wh[0]), max(box[3] - box[1], fade * self._size_wh[1])
        self._largest = size = max(self._largest, diagonal(box))
        self._farthest = max(self._farthest, _shift(box, self.first_box_xyxy))
        self.travel = self._farthest / size
        # A vehicle becomes background piece by piece: that is not driving off.
        if _shift(box, self.stands_xyxy) <= _STANDS * size:
            self._stood_s = time_s
        elif time_s - self._stood_s > _DRIVES_OFF_S:
            self.stands_xyxy, self._stands_since_s, self._stood_s = box, time_s, time_s
        self.standing_s = self._stood_s - self._stands_since_s


def _shift(box: Box, other: Box) -> float:
    """Return the largest displacement of any edge, in pixels."""
    return float(np.abs(np.array(box) - np.array(other)).max())
