"""Which boxes of successive frames are one vehicle.

Small on purpose: greedy matching of boxes against where each track is predicted to be, its four edges moving at
constant velocity. That suffices for a gate, where vehicles do not pass behind one another. `Tracker` has the shape of
a tracking library's, so that one can stand in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.boxes import Box, Detection, area, centre, diagonal, intersection, iou, touches_border, union

_YOUNG = 3  # times the hits that confirm a track; what was followed for longer is a vehicle that hides behind another


@dataclass(frozen=True)
class TrackingRules:
    """When a track begins, and when it has ended.

    `confirm_hits`: frames in which a vehicle must be found before it counts. `lost_after_s`: seconds without a match
    after which it is gone; seconds, because frame rates differ and drop. `reach`: how far from its predicted place a
    vehicle may be, as a share of its box's diagonal. `velocity_memory`: how much of the velocity is carried over from
    frame to frame, the rest is measured anew. `fixed`: boxes are places that are occupied or free, such as zones; a
    track stays in its place, and neighbours have nothing to do with it.
    """

    confirm_hits: int = 3
    lost_after_s: float = 0.6
    reach: float = 0.5
    velocity_memory: float = 0.6
    fixed: bool = False


@dataclass(eq=False)
class Track:
    """One vehicle across frames.

    Attributes:
        id: counts from 1 within a run.
        box_xyxy: where it was last found; `first_box_xyxy` where it was first.
        score: the last detection's.
        first_time_s, last_time_s: of its first and last match.
        hits: frames in which it was found.
        confirmed: it was found often enough to count.
        travel: the farthest that any edge of its box got from its place at the first match, in diagonals of the largest
            box. A vehicle that drives, or nears, travels; a shadow, a lamp or a waving branch does not.
    """

    id: int
    box_xyxy: Box
    first_time_s: float
    last_time_s: float
    score: float = 1.0
    hits: int = 1
    confirmed: bool = False
    travel: float = 0.0
    _farthest: float = field(default=0.0, repr=False)
    _largest: float = field(default=0.0, repr=False)
    _velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4), repr=False)

    def __post_init__(self) -> None:
        """Remember where it began."""
        self.first_box_xyxy = self.box_xyxy
        self._largest = diagonal(self.box_xyxy)

    def predicted(self, time_s: float) -> tuple[float, ...]:
        """Return where the box should be at `time_s`, its edges moving on at their velocity."""
        moved = np.array(self.box_xyxy) + self._velocity * max(0.0, time_s - self.last_time_s)
        return tuple(float(edge) for edge in moved)

    def _has_left(self, time_s: float, size_wh: tuple[int, int]) -> bool:
        """Return whether the box, which the frame's border cut, should have shrunk to nothing by now."""
        expected = self.predicted(time_s)
        return touches_border(self.box_xyxy, size_wh) and (expected[0] >= expected[2] or expected[1] >= expected[3])

    def _found(self, box: Box, score: float, time_s: float, rules: TrackingRules) -> None:
        elapsed_s = time_s - self.last_time_s
        if elapsed_s > 0:
            measured = (np.array(box) - np.array(self.box_xyxy)) / elapsed_s
            memory = rules.velocity_memory if self.hits > 1 else 0.0
            self._velocity = memory * self._velocity + (1 - memory) * measured
        self.box_xyxy, self.score, self.last_time_s = box, score, time_s
        self.hits += 1
        self.confirmed |= self.hits >= rules.confirm_hits
        self._farthest = max(self._farthest, float(np.abs(np.array(box) - np.array(self.first_box_xyxy)).max()))
        self._largest = max(self._largest, diagonal(box))
        self.travel = self._farthest / self._largest


class Tracker:
    """Follows vehicles from frame to frame. `lost` holds the tracks that the last `update` ended."""

    def __init__(self, rules: TrackingRules | None = None) -> None:
        """Start without tracks."""
        self.rules = rules or TrackingRules()
        self.lost: list[Track] = []
        self._tracks: list[Track] = []
        self._next_id = 1

    def update(
        self, detections: Sequence[Detection], time_s: float, size_wh: tuple[int, int] | None = None
    ) -> list[Track]:
        """Take a frame's detections and return the tracks found in it, new ones included; `lost` is set anew.

        Args:
            detections: the frame's vehicles.
            time_s: the frame's time.
            size_wh: the frame's size in pixels. With it, a vehicle that drove out of the frame is lost at once, and one
                that comes in there is another.
        """
        boxes = [detection.box_xyxy for detection in detections]
        left = [track for track in self._tracks if size_wh is not None and track._has_left(time_s, size_wh)]
        self._tracks = [track for track in self._tracks if track not in left]
        predicted = [track.predicted(time_s) for track in self._tracks]
        places: dict[int, Detection] = {}
        left_over = set(range(len(boxes)))
        for place, row in self._pairs(predicted, boxes):
            if place not in places and row in left_over:
                places[place] = detections[row]
                left_over.remove(row)
        for row in sorted(left_over):
            # A vehicle that falls into pieces in this frame: the piece that matched speaks for it, the others belong
            # to it.
            whole = next((place for place in places if _is_part(boxes[row], predicted[place])), None)
            if whole is not None and not self.rules.fixed:
                places[whole] = Detection(union(places[whole].box_xyxy, boxes[row]), places[whole].score)
                left_over.remove(row)
        found = [self._tracks[place] for place in sorted(places)]
        for place, detection in places.items():
            self._tracks[place]._found(detection.box_xyxy, detection.score, time_s, self.rules)
        for row in sorted(left_over):
            found.append(self._begin(detections[row], time_s))
        taken_in = [] if self.rules.fixed else self._fragments_in(found)
        late = [track for track in self._tracks if time_s - track.last_time_s > self.rules.lost_after_s]
        self.lost = left + taken_in + [track for track in late if track not in taken_in]
        self._tracks = [track for track in self._tracks if track not in self.lost]
        return found

    def discard(self, places: Sequence[Box]) -> list[Track]:
        """End the tracks that stand at these places, without calling them lost, and return them."""
        gone = [track for track in self._tracks if any(iou(track.box_xyxy, place) > 0.5 for place in places)]
        self._tracks = [track for track in self._tracks if track not in gone]
        return gone

    def flush(self) -> list[Track]:
        """End all tracks, at the end of the source, and return them."""
        ended, self._tracks = self._tracks, []
        return ended

    def _fragments_in(self, found: Sequence[Track]) -> list[Track]:
        """Return young tracks that were not found in this frame and lie inside one that was, no longer confirmed.

        A vehicle that comes into the picture may show as two pieces for some frames, before one box holds it all.
        """
        pieces = [
            track
            for track in self._tracks
            if track not in found
            and track.hits < _YOUNG * self.rules.confirm_hits
            and any(_is_part(track.box_xyxy, whole.box_xyxy) for whole in found)
        ]
        for track in pieces:
            track.confirmed = False
        return pieces

    def _begin(self, detection: Detection, time_s: float) -> Track:
        confirmed = self.rules.confirm_hits <= 1
        track = Track(self._next_id, detection.box_xyxy, time_s, time_s, detection.score, confirmed=confirmed)
        self._next_id += 1
        self._tracks.append(track)
        return track

    def _pairs(self, predicted: Sequence[Sequence[float]], boxes: Sequence[Box]) -> list[tuple[int, int]]:
        """Return which track and box can belong together, the best first."""
        scored = []
        for place, expected in enumerate(predicted):
            for row, box in enumerate(boxes):
                overlap = iou(expected, box)
                if self.rules.fixed:
                    if overlap > 0.9:
                        scored.append((overlap, place, row))
                    continue
                (x, y), (u, v) = centre(expected), centre(box)
                size = max(diagonal(box), diagonal(self._tracks[place].box_xyxy))
                # The velocity of a track that was found once is not known yet: it may be anywhere within its own
                # length.
                reach = self.rules.reach if self._tracks[place].hits > 1 else max(1.0, self.rules.reach)
                nearness = 1.0 - ((x - u) ** 2 + (y - v) ** 2) ** 0.5 / (reach * size)
                if overlap > 0.1 or nearness > 0:
                    scored.append((overlap + max(0.0, nearness), place, row))
        scored.sort(key=lambda item: (-item[0], item[1], item[2]))
        return [(place, row) for _, place, row in scored]


def _is_part(box: Box, whole: Sequence[float]) -> bool:
    return intersection(box, whole) > 0.6 * area(box)
