"""What a run of the camera loop did, as data."""

from __future__ import annotations

from collections.abc import Mapping

from twincar_edge.errors import Parameter
from twincar_edge.records import Record
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.locating.boxes import IgnoredReason
from twincar_edge.runtime.monitoring.stages import StageLatency


def ignored_notes(ignored: Mapping[IgnoredReason, int], camera: CameraConfig) -> tuple[str, ...]:
    """Return a sentence for each reason for which moving things were left out, with the parameter that changes it."""
    sentences = {
        "small": ("was", "were", f"smaller than {Parameter('min_area', camera.min_area)}"),
        "zone": ("passed", "passed", f"outside {Parameter('zones')}"),
    }
    return tuple(
        f"{count} moving {'thing' if count == 1 else 'things'} {sentences[reason][count != 1]} {sentences[reason][2]}"
        for reason, count in ignored.items()
    )


class CameraSummary(Record):
    """What a run did with one camera.

    `source` has no secrets in it. `skipped` frames could not be decoded; `dropped` ones came while an older one was
    being looked at, and `crops_dropped` counts crops that a newer one of the same vehicle replaced before the model saw
    them: both only of live cameras. `located_by` is the locator, and why this one. `ignored` counts moving things that
    were left out, by reason. `error` is what ended the camera before its time.
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
    error: str | None


class WatchSummary(Record):
    """What a run did; `fps` is frames of all cameras by seconds of the run, waiting included.

    `stages`: latencies of `read`, `locate`, `track`, `classify` (cut, resize, infer; a batch) and `write` (handing an
    event to the sinks). `results` holds the `end` events where the config says `keep`.
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
