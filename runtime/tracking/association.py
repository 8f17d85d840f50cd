"""Which boxes of successive frames are one vehicle: the library `trackers`, behind the little that is asked of it.

ByteTrack (Zhang et al., arXiv:2110.06864): a Kalman filter tells where each vehicle should be, boxes are given to
vehicles so that all fit best together, first the sure ones, then the others, which can go on with a vehicle but not
begin one. How well a box fits is measured by generalized IoU (Rezatofighi et al., arXiv:1902.09630), which also tells
near from far where boxes do not overlap: at five frames a second a car moves on by more than its length.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from twincar_edge.runtime.locating.boxes import Box, Detection, iou

Handle = object
"""What stands for one vehicle: whatever two boxes have in common when they have the same."""

_LEAST_FIT = -0.5  # generalized IoU, which is -1 for boxes infinitely far apart and 1 for the same
_NOMINAL_FPS = 25.0  # the noise of the library's Kalman filter is of a frame at this rate; other steps are scaled
_LEAST_STEP_S = 1e-3  # frames that share a time, as broken files have them, are taken for this far apart
_FOR_EVER = 10**9  # frames at 30 a second: when a vehicle is lost, `TrackingRules` say
_SURE, _UNSURE = 1.0, 0.5


class Matcher(ABC):
    """Tells the vehicles of a frame from their boxes."""

    @abstractmethod
    def match(self, detections: Sequence[Detection], time_s: float) -> list[Handle | None]:
        """Return each box's vehicle; an unsure box that fits none has none."""

    @abstractmethod
    def forget(self, handles: Iterable[Handle]) -> None:
        """Look for these vehicles no longer."""


class Moving(Matcher):
    """For boxes that travel with their vehicles."""

    def __init__(self) -> None:
        """Start without vehicles. The library is imported with the first."""
        self._tracker: Any = None
        self._boxes: Any = None
        self._time_s = -np.inf

    def match(self, detections: Sequence[Detection], time_s: float) -> list[Handle | None]:
        """Return each box's vehicle."""
        self._time_s = max(time_s, self._time_s + _LEAST_STEP_S)
        if self._tracker is None:
            if not detections:
                return []
            self._tracker, self._boxes = _byte_track()
        known = {id(tracklet) for tracklet in self._tracker.tracks}
        boxes = np.array([detection.box_xyxy for detection in detections], np.float64).reshape(-1, 4)
        sure = np.array([_SURE if detection.begins else _UNSURE for detection in detections], np.float32)
        rows = np.arange(len(detections))
        found = self._boxes(xyxy=boxes, confidence=sure, data={"row": rows})
        matched = self._tracker.update(found, timestamp=self._time_s)
        handles: list[Handle | None] = [None] * len(detections)
        by_number = {tracklet.tracker_id: tracklet for tracklet in self._tracker.tracks}
        for row, number in zip(matched.data.get("row", ()), matched.tracker_id, strict=True):
            if number >= 0:
                handles[row] = by_number[number]
        # A vehicle gets its number with its second box. Until then it is told by its first, which it has for a state.
        for tracklet in self._tracker.tracks:
            if id(tracklet) not in known:
                same = (boxes == tracklet.get_state_bbox()).all(axis=1)
                handles[next(row for row in np.flatnonzero(same) if handles[row] is None)] = tracklet
        return handles

    def forget(self, handles: Iterable[Handle]) -> None:
        """Look for these vehicles no longer."""
        gone = {id(handle) for handle in handles}
        if gone:
            self._tracker.tracks = [tracklet for tracklet in self._tracker.tracks if id(tracklet) not in gone]


class Places(Matcher):
    """For boxes that are places, occupied or free, such as zones: what is in the same place is the same."""

    def __init__(self) -> None:
        """Start without vehicles."""
        self._places: dict[Handle, Box] = {}

    def match(self, detections: Sequence[Detection], time_s: float) -> list[Handle | None]:
        """Return each box's vehicle."""
        handles: list[Handle | None] = []
        for detection in detections:
            box = detection.box_xyxy
            handle = next((handle for handle, place in self._places.items() if iou(place, box) > 0.9), None)
            handles.append(handle or object())
            self._places[handles[-1]] = box
        return handles

    def forget(self, handles: Iterable[Handle]) -> None:
        """Look for these vehicles no longer."""
        for handle in handles:
            self._places.pop(handle, None)


def preload() -> threading.Thread:
    """Import the library in a thread, which is returned running: whoever asked for it joins it.

    It takes longer to import than all else that a camera box loads, and is not needed before the first vehicle.
    """
    thread = threading.Thread(target=_byte_track, name="preload")
    thread.start()
    return thread


def _byte_track() -> tuple[Any, Any]:
    """Return a tracker, and the class of the boxes that it takes."""
    # Here and not above: single images and zones do without the library.
    import supervision
    import trackers

    tracker = trackers.ByteTrackTracker(
        lost_track_buffer=_FOR_EVER,
        frame_rate=_NOMINAL_FPS,
        track_activation_threshold=_SURE,
        high_conf_det_threshold=_SURE,
        minimum_consecutive_frames=1,
        minimum_iou_threshold=_LEAST_FIT,
        iou=trackers.GIoU(),
    )
    return tracker, supervision.Detections
