"""Tracks vehicles across frames: `association` matches boxes, and this module manages the lifetime of tracks.

It adds steps that ByteTrack does not have: it joins the pieces of a split vehicle, recognizes a vehicle that was hidden
or parked, keeps a vehicle that left the frame apart from the next one that enters, and measures time in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from twincar_edge.runtime.locating.boxes import (
    Box,
    Detection,
    area,
    diagonal,
    gap,
    intersection,
    iou,
    touches_border,
    union,
)
from twincar_edge.runtime.tracking.association import Handle, Matcher, Moving, Places
from twincar_edge.runtime.tracking.pieces import Piece
from twincar_edge.runtime.tracking.tracks import Track

__all__ = ["Track", "Tracker", "TrackingRules"]

_YOUNG = 3  # times the hits that confirm a track; an older track is a vehicle that is hidden by another
_PART = 0.6  # share of a box that lies in another: then it is a part of it
_NEAR = 0.5  # of its diagonal: other parts of the same vehicle may appear within this distance of a box
_DROVE = 0.3  # of its diagonal: a thing with less travel is a lamp or a shadow, not a parked vehicle


@dataclass(frozen=True)
class TrackingRules:
    """When a track begins and ends.

    `confirm_hits`: frames in which a vehicle must be found before it counts. `lost_after_s`: seconds without a match
    after which it is gone; seconds, because frame rates differ and drop. `parked_after_s`: a vehicle that drove up
    and stood for this long before it was no longer found has not left: it is parked, and is recognized when it
    reappears or drives off, for up to `parked_for_s`. `fixed`: boxes are places that are occupied or free, such as
    zones; a track stays in its place, independent of its neighbors.
    """

    confirm_hits: int = 3
    lost_after_s: float = 1.0
    parked_after_s: float = 3.0
    parked_for_s: float = 86_400.0
    fixed: bool = False


class Tracker:
    """Follows vehicles from frame to frame. `lost` holds the tracks that the last `update` ended."""

    def __init__(self, rules: TrackingRules | None = None) -> None:
        """Start without tracks."""
        self.rules = rules or TrackingRules()
        self.lost: list[Track] = []
        self._matcher: Matcher = Places() if self.rules.fixed else Moving()
        self._tracks: dict[Handle, Track] = {}
        self._pieces: dict[Handle, Piece] = {}
        self._next_id = 1

    def update(
        self, detections: Sequence[Detection], time_s: float, size_wh: tuple[int, int] | None = None
    ) -> list[Track]:
        """Take a frame's detections and return the tracks found in it, new ones included; `lost` is set anew.

        Args:
            detections: the frame's vehicles.
            time_s: the frame's time.
            size_wh: the frame's size in pixels. With it, a vehicle that leaves the frame is lost at once, and one that
                enters there is a new one.
        """
        self.lost = []
        if size_wh is not None:
            self.lost += self._end(lambda track: track.has_left(time_s, size_wh))
        expected = {track: track.whole(time_s) for track in self._tracks.values()}
        found: dict[Track, Detection] = {}
        parts: list[tuple[Handle, Detection]] = []
        new: list[tuple[Handle, Detection]] = []
        for handle, detection in zip(self._matcher.match(detections, time_s), detections, strict=True):
            if handle in self._tracks:
                found[self._tracks[handle]] = detection
            elif handle in self._pieces:
                parts.append((handle, detection))
            elif handle is not None:
                new.append((handle, detection))
        for track, detection in found.items():
            track.own_xyxy = detection.box_xyxy
        if not self.rules.fixed:
            apart = [one for one in parts if not self._stays_piece(*one, found, time_s, size_wh)]
            new = [one for one in new if not self._moves_off(*one, found)]
            new = [one for one in new if not self._is_piece(*one, found, expected, time_s)] + apart
            new = [one for one in new if not self._shows_again(*one, found, time_s, size_wh)]
        for track, detection in found.items():
            track.found(detection, time_s, self.rules.confirm_hits)
        seen = [track for track in self._tracks.values() if track in found]
        seen += [self._begin(handle, detection, time_s) for handle, detection in new]
        if not self.rules.fixed:
            self.lost += self._fragments_in(seen)
        self.lost += self._end(lambda track: track not in seen and self._is_gone(track, seen, time_s))
        self._forget_pieces(time_s)
        self._park(time_s)
        return seen

    def discard(self, places: Sequence[Box]) -> tuple[list[Track], list[Track]]:
        """End the tracks at these places; return those that were no vehicles, and parked ones that drove off."""
        ended = self._end(lambda track: any(iou(track.box_xyxy, place) > 0.5 for place in places))
        parked = [track for track in ended if track.parked_xyxy is not None]
        return [track for track in ended if track not in parked], parked

    def expire(self, time_s: float) -> list[Track]:
        """End and return the tracks that are lost by now, while the camera gives no frames."""
        return self._end(lambda track: self._is_gone(track, (), time_s))

    def may_be_piece(self, track: Track) -> bool:
        """Return whether a young track is so near another one that it may be a piece of that vehicle."""
        if self.rules.fixed or track.hits >= _YOUNG * self.rules.confirm_hits:
            return False
        near = _NEAR * diagonal(track.box_xyxy)
        return any(gap(track.box_xyxy, other.box_xyxy) < near for other in self._tracks.values() if other is not track)

    def flush(self) -> list[Track]:
        """End all tracks, at the end of the source, and return them."""
        return self._end(lambda track: True)

    def _begin(self, handle: Handle, detection: Detection, time_s: float) -> Track:
        confirmed = self.rules.confirm_hits <= 1
        track = Track(
            self._next_id,
            detection.box_xyxy,
            time_s,
            time_s,
            detection.score,
            confirmed=confirmed,
            kind=detection.kind,
        )
        self._next_id += 1
        self._tracks[handle] = track
        return track

    def _end(self, ended: Callable[[Track], bool]) -> list[Track]:
        gone = {handle: track for handle, track in self._tracks.items() if ended(track)}
        self._matcher.forget(gone)
        for handle in gone:
            del self._tracks[handle]
        return list(gone.values())

    def _is_piece(
        self,
        handle: Handle,
        detection: Detection,
        found: dict[Track, Detection],
        expected: dict[Track, tuple[float, ...]],
        time_s: float,
    ) -> bool:
        """If this is a piece of a vehicle that split in this frame, join them, and return whether it is.

        The matched piece represents the vehicle.
        """
        whole = next((track for track in found if _is_part(detection.box_xyxy, expected[track])), None)
        if whole is None:
            return False
        self._pieces[handle] = Piece(whole, detection.box_xyxy, time_s)
        self._join(whole, detection, found)
        return True

    def _stays_piece(
        self,
        handle: Handle,
        detection: Detection,
        found: dict[Track, Detection],
        time_s: float,
        size_wh: tuple[int, int] | None,
    ) -> bool:
        """If this is still a known piece of a vehicle, join them, and return whether it is."""
        piece = self._pieces[handle]
        whole = piece.whole
        piece.last_time_s = time_s
        if whole in found and not piece.moves_apart(detection.box_xyxy, whole.own_xyxy, size_wh):
            self._join(whole, detection, found)
            return True
        del self._pieces[handle]
        known = next((known for known, track in self._tracks.items() if track is whole), None)
        if whole not in found and known is not None and not self._matcher.follows(known, detection.box_xyxy):
            self._continue_with(known, handle, detection, found)
            for other in self._pieces.values():
                if other.whole is whole:
                    other.begin_anew()
            return True
        whole.part_from()
        return False

    def _forget_pieces(self, time_s: float) -> None:
        """Drop pieces that were not found for a while: they merged with their vehicle, or left."""
        gone = [h for h, piece in self._pieces.items() if time_s - piece.last_time_s > self.rules.lost_after_s / 2]
        self._matcher.forget(gone)
        for handle in gone:
            del self._pieces[handle]

    def _join(self, whole: Track, detection: Detection, found: dict[Track, Detection]) -> None:
        found[whole] = replace(found[whole], box_xyxy=union(found[whole].box_xyxy, detection.box_xyxy))

    def _shows_again(
        self,
        handle: Handle,
        detection: Detection,
        found: dict[Track, Detection],
        time_s: float,
        size_wh: tuple[int, int] | None,
    ) -> bool:
        """If this is a vehicle that was hidden, continue its track, and return whether it is.

        A box that enters at the frame's border was outside, not hidden.
        """
        box = detection.box_xyxy
        comes_in = size_wh is not None and touches_border(box, size_wh)
        for known, track in self._tracks.items():
            if track in found or not _is_part(box, self._whereabouts(track, time_s)):
                continue
            if comes_in and size_wh is not None and not touches_border(track.box_xyxy, size_wh):
                continue
            self._continue_with(known, handle, detection, found)
            return True
        return False

    def _moves_off(self, handle: Handle, detection: Detection, found: dict[Track, Detection]) -> bool:
        """If this is a parked vehicle that drives off, continue its track, and return whether it is.

        The ground that it exposes was never seen before, and looks like a vehicle too. That box stays in place.
        """
        for known, track in self._tracks.items():
            place = track.parked_xyxy
            if place is None or track not in found or iou(found[track].box_xyxy, place) < 0.5:
                continue
            if gap(detection.box_xyxy, place) == 0:
                self._continue_with(known, handle, detection, found)
                track.parked_xyxy = None
                return True
        return False

    def _park(self, time_s: float) -> None:
        """Fix parked vehicles in place: the matcher's predictions would drift away."""
        for handle, track in list(self._tracks.items()):
            if track.parked_xyxy is None and time_s - track.last_time_s > self.rules.lost_after_s:
                track.parked_xyxy = track.stands_xyxy
                self._change_handle(handle, object())

    def _change_handle(self, known: Handle, handle: Handle) -> None:
        """Change a vehicle's handle."""
        self._matcher.forget([known])
        self._tracks[handle] = self._tracks.pop(known)

    def _continue_with(
        self, known: Handle, handle: Handle, detection: Detection, found: dict[Track, Detection]
    ) -> None:
        """Continue a vehicle with this detection, and take over its handle."""
        track = self._tracks[known]
        self._change_handle(known, handle)
        found[track] = detection
        track.own_xyxy = detection.box_xyxy

    def _whereabouts(self, track: Track, time_s: float) -> Sequence[float]:
        return track.stands_xyxy if self._is_parked(track) else track.whereabouts(time_s)

    def _is_parked(self, track: Track) -> bool:
        drove = track.confirmed and track.travel >= _DROVE
        stood = track.standing_s >= self.rules.parked_after_s and _is_part(track.box_xyxy, track.stands_xyxy)
        return drove and stood

    def _is_gone(self, track: Track, seen: Sequence[Track], time_s: float) -> bool:
        if self.rules.fixed or not self._is_parked(track):
            return time_s - track.last_time_s > self.rules.lost_after_s
        taken = any(self._is_parked(other) and iou(track.stands_xyxy, other.stands_xyxy) > 0.5 for other in seen)
        return taken or time_s - track.last_time_s > self.rules.parked_for_s

    def _fragments_in(self, seen: Sequence[Track]) -> list[Track]:
        """End young tracks without a match in this frame that lie inside a matched one, and unconfirm them.

        A vehicle that enters the picture may appear as two pieces for some frames, before one box covers it.
        """
        pieces = self._end(
            lambda track: (
                track not in seen
                and track.hits < _YOUNG * self.rules.confirm_hits
                and any(_is_part(track.box_xyxy, whole.box_xyxy) for whole in seen)
            )
        )
        for track in pieces:
            track.confirmed = False
        return pieces


def _is_part(box: Box, whole: Sequence[float]) -> bool:
    return intersection(box, whole) > _PART * area(box)
