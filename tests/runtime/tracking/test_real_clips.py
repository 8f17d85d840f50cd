"""Real traffic with several locators: how many vehicles become exactly one visit. The truth was counted by eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from twincar_edge.runtime.locating.detector import ANY, open_detector
from twincar_edge.runtime.locating.locate import LocateOptions, make_locator
from twincar_edge.runtime.locating.zones import parse_zone
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.tracking.tracker import Tracker, TrackingRules

# The passing vehicles, with the first and last frame in which each is near: in the street, after the lane comes
# out from behind the fence. Cars on the distant crossing, and those parked there, do not come near.
STREET = [
    ("white saloon", 0, 42),
    ("red saloon", 48, 98),
    ("gray saloon", 98, 152),
    ("white pickup", 140, 208),
    ("white SUV", 198, 264),
    ("black SUV", 386, 447),
    ("black taxi", 450, 503),
    ("gray SUV", 688, 738),
]
PARKING_LOT = [
    ("white hatchback", 54, 107),
    ("pale blue hatchback", 181, 228),
    ("red saloon", 187, 238),
    ("white sports saloon", 315, 347),
]
TRUTHS = {"street_side": STREET, "parking_lot_overhead": PARKING_LOT}
ZONES = {"parking_lot_overhead": "0.35,0 0.65,1"}
_FITS = 0.5  # the least intersection over union of the frames of a visit and a vehicle


@dataclass
class Found:
    """How many vehicles have one visit, a merged one, several, or none; and how many visits have no vehicle."""

    once: int = 0
    merged: int = 0
    doubled: int = 0
    missed: int = 0
    extra: int = 0


def score(visits: Sequence[tuple[int, int]], truth: Sequence[tuple[str, int, int]]) -> Found:
    """Assign each visit to the vehicle with the largest overlap in time; a visit with too little overlap is merged."""

    def fit(visit: tuple[int, int], one: tuple[str, int, int]) -> float:
        shared = min(visit[1], one[2]) - max(visit[0], one[1]) + 1
        return max(0, shared) / (max(visit[1], one[2]) - min(visit[0], one[1]) + 1)

    taken: list[list[float]] = [[] for _ in truth]
    for visit in visits:
        best = max(range(len(truth)), key=lambda number: fit(visit, truth[number]))
        taken[best].append(fit(visit, truth[best]))
    found = Found(extra=sum(all(fit(visit, one) == 0 for one in truth) for visit in visits))
    for one, fits in zip(truth, taken, strict=True):
        if [share > _FITS for share in fits] == [True]:
            found.once += 1
        elif len(fits) > 1:
            found.doubled += 1
        elif any(visit[0] <= (one[1] + one[2]) / 2 <= visit[1] for visit in visits):
            found.merged += 1
        else:
            found.missed += 1
    return found


def visits(clip: Path, locate: str, stride: int, options: LocateOptions) -> list[tuple[int, int]]:
    locator = make_locator(locate, options)
    tracker = Tracker(TrackingRules(fixed=not locator.moves))
    frames: dict[int, list[int]] = {}
    ended = []
    with open_source(str(clip), stride=stride) as source:
        for frame in source:
            rows, columns = frame.image_bgr.shape[:2]
            detections = locator.locate(frame)
            ended += tracker.discard(locator.uncovered)[1]
            for track in tracker.update(detections, frame.time_s, (columns, rows)):
                frames.setdefault(track.id, []).append(frame.index)
            ended += tracker.lost
    ended += tracker.flush()
    counting = [track for track in ended if track.confirmed and (track.travel >= 0.3 or not locator.moves)]
    return sorted((frames[track.id][0], frames[track.id][-1]) for track in counting)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("clip", "locate", "stride", "expected"),
    [
        ("street_side", "motion", 1, Found(once=8)),
        ("street_side", "motion", 2, Found(once=8)),
        ("street_side", "motion", 5, Found(once=8)),
        ("parking_lot_overhead", "motion", 2, Found(once=4)),
        ("parking_lot_overhead", "detector", 4, Found(once=4)),
        ("parking_lot_overhead", "zone", 2, Found(once=2, merged=2)),  # two cars meet in the only zone
    ],
)
def test_real_vehicles_are_found_once(shared: Path, clip: str, locate: str, stride: int, expected: Found) -> None:
    options = LocateOptions()
    if locate == "zone":
        options = LocateOptions(zones=(parse_zone(ZONES[clip]),))
    elif locate == "detector":
        detector = open_detector(shared / "models" / "yolox_nano_coco.onnx", ep="cpu", threads=1)
        # Seen from straight above, cars are detected as anything but cars.
        options = LocateOptions(detector=detector, detect_classes=(ANY,))
    assert asdict(score(visits(shared / "clips" / f"{clip}.mp4", locate, stride, options), TRUTHS[clip])) == asdict(
        expected
    )
