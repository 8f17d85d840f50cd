"""The summary of a run of the camera loop."""

from __future__ import annotations

from collections.abc import Mapping

from twincar_edge.errors import Parameter
from twincar_edge.records import Record
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.events import Event, Limit
from twincar_edge.runtime.locating.boxes import IgnoredReason
from twincar_edge.runtime.monitoring.stages import StageLatency
from twincar_edge.wording import counted


def camera_notes(
    camera: CameraConfig, locator: str, ignored: Mapping[IgnoredReason, int], limited: Mapping[Limit, int]
) -> tuple[str, ...]:
    """Return a sentence per reason for ignored things or limited answers, with a remedy, and per key without effect."""
    keys = (
        f"{Parameter(key, getattr(camera, key))} has no effect {text}" for key, text in camera.without_effect(locator)
    )
    left_out = {
        "small": ("was", "were", f"smaller than {Parameter('min_area', camera.min_area)}"),
        "zone": ("passed", "passed", f"outside {Parameter('zones')}"),
    }
    apart = "a view from the side" if locator == "detector" else Parameter("locate", "detector")
    held_back = {
        "merged": f"showed two vehicles, one after the other, and got no name: {apart} tells them apart better",
        "cut": "showed a vehicle that the frame's border cuts in every crop: let the camera see more of the road",
        "small": "showed a vehicle too small for a full name in every crop: zoom in, or move the camera nearer",
    }
    things = (
        f"{counted(count, 'moving thing')} {left_out[why][count != 1]} {left_out[why][2]}"
        for why, count in ignored.items()
    )
    visits = (f"{counted(count, 'visit')} {held_back[why]}" for why, count in limited.items())
    return (*keys, *things, *visits)


class CameraSummary(Record):
    """The summary of one camera.

    `source` is redacted. `skipped` frames could not be decoded. `dropped` frames arrived while an older one was being
    processed, and `crops_dropped` counts crops that a newer one of the same vehicle replaced before classification:
    both only for live cameras. `located_by` is the locator, and the reason for it. `ignored` counts the moving things
    that did not count, and `limited` the visits whose answer was limited, by reason; `notes` has both as sentences,
    with remedies, and the keys that have no effect. `error` is the error that ended the camera early.
    """

    name: str
    source: str
    frames: int
    skipped: int
    skip_reasons: dict[str, int]
    dropped: int
    crops_dropped: int
    reconnects: int
    visits: int
    located_by: str
    ignored: dict[IgnoredReason, int]
    limited: dict[Limit, int]
    notes: tuple[str, ...]
    error: str | None


class WatchSummary(Record):
    """The summary of a run; `fps` is the frames of all cameras per second of the run, including waits.

    `stages`: latencies of `read`, `locate`, `track`, `cut` (a crop), `film` (keeping a frame for clips), `classify`
    (resizing and inferring a batch) and `write` (handing an event to the sinks). `results` holds the `end` events if
    the config has `keep`.
    """

    cameras: tuple[CameraSummary, ...]
    seconds: float
    stages: dict[str, StageLatency]
    results: tuple[Event, ...] = ()

    @property
    def frames(self) -> int:
        """Return the frames of all cameras."""
        return sum(camera.frames for camera in self.cameras)

    @property
    def visits(self) -> int:
        """Return the visits of all cameras."""
        return sum(camera.visits for camera in self.cameras)

    @property
    def fps(self) -> float:
        """Return frames a second over the whole run."""
        return round(self.frames / self.seconds, 2) if self.seconds > 0 else 0.0
