"""What a run of the camera loop did, as data."""

from __future__ import annotations

from twincar_edge.records import Record
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.monitoring.stages import StageLatency


class CameraSummary(Record):
    """What a run did with one camera.

    `source` has no secrets in it. `skipped` frames could not be decoded; `dropped` ones came while an older one was
    being looked at, and `crops_dropped` counts crops that a newer one of the same vehicle replaced before the model saw
    them: both only of live cameras. `error` is what ended the camera before its time.
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
