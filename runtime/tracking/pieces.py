"""Handles boxes where another vehicle is expected: they count as its pieces until their motion differs from it.

In one frame, a bumper beyond a strip of the road's gray and a small car behind a large one look alike. A few frames
tell them apart: a piece moves with its vehicle, and a follower moves at its own speed.
"""

from __future__ import annotations

from dataclasses import dataclass

from twincar_edge.runtime.locating.boxes import Box, diagonal
from twincar_edge.runtime.tracking.tracks import Track

_APART = 0.5  # of its diagonal: a box that moved this far relative to its vehicle is not its piece
_APART_OF_WHOLE = 0.1  # of the vehicle's diagonal: the same for small pieces, whose boxes jitter
_LEAST_HITS = 3
_BORDER = 2  # pixels


@dataclass(eq=False)
class Piece:
    """One such box across frames.

    Attributes:
        whole: the vehicle that it counts as a part of.
        box: where it is; `first_box` where it was first, and `first_own` where its vehicle's own box was then.
        last_time_s: when it was last found.
        hits: frames in which it was found.
    """

    whole: Track
    box: Box
    last_time_s: float

    def __post_init__(self) -> None:
        """Record the initial boxes."""
        self.begin_anew()

    def begin_anew(self) -> None:
        """Reset the reference boxes: another piece represents the vehicle now."""
        self.first_box, self.first_own = self.box, self.whole.own_xyxy
        self.hits = 1

    def moves_apart(self, box: Box, own: Box, size_wh: tuple[int, int] | None) -> bool:
        """Add its box and its vehicle's own from another frame, and return whether it is a separate vehicle.

        A rigid object may be partly hidden at any side, but on each axis at least one of its edges moves with it. An
        edge at the frame's border is not the vehicle's edge.
        """
        self.box = box
        self.hits += 1
        if self.hits < _LEAST_HITS:
            return False
        farthest = max(_APART * diagonal(box), _APART_OF_WHOLE * diagonal(own))
        for axis in (0, 1):
            mine = _shifts(self.first_box, box, axis, size_wh)
            its = _shifts(self.first_own, own, axis, size_wh)
            if mine and its and min(abs(one - other) for one in mine for other in its) > farthest:
                return True
        return False


def _shifts(first: Box, box: Box, axis: int, size_wh: tuple[int, int] | None) -> list[int]:
    """Return each edge's displacement on an axis, without edges at the frame's border."""
    most = None if size_wh is None else size_wh[axis] - _BORDER
    edges = [
        edge for edge in (axis, axis + 2) if most is None or all(_BORDER < one[edge] < most for one in (first, box))
    ]
    return [box[edge] - first[edge] for edge in edges]
