"""What to watch and how, as validated data: what `cameras.toml` holds, and what the command line's options become."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, ValidationError, ValidationInfo, field_validator, model_validator

from twincar_edge.errors import InputError, first_fault, nearest
from twincar_edge.records import Record
from twincar_edge.runtime.configuration.page_settings import PageSettings, ServerAddress
from twincar_edge.runtime.locating.choice import AUTO
from twincar_edge.runtime.locating.locate import LocateOptions
from twincar_edge.runtime.locating.zones import Zone, parse_zone
from twincar_edge.runtime.quantities import ConfigPath, Seconds, Size, beside_the_file
from twincar_edge.runtime.sinks.settings import SinkSettings
from twincar_edge.runtime.sources.bounds import MAX_FRAME_PIXELS
from twincar_edge.runtime.sources.devices import device_number
from twincar_edge.runtime.tracking.tracker import TrackingRules
from twincar_edge.trust import Trust

# Part of MQTT topics, file names and labels of metrics: nothing that means something there.
CameraName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class CameraConfig(Record):
    """One camera (or file, or folder): where its frames come from, and how vehicles are found in them.

    `source`, `once`, `stride`, `size` and `poll_s` are `open_source`'s; `max_frame_megapixels` is its `max_pixels`, in
    millions. `locate` is a name in `LOCATORS`, or `auto`:
    `choose_locator` says what that is. `zones` to `detect_score` are
    `LocateOptions`'. `classify_every` takes a vehicle's every Nth frame. `lost_after_s`, `parked_after_s` and
    `parked_for_s` are `TrackingRules`'. A track becomes a visit when the vehicle was found in at least `min_hits`
    frames and, where boxes move, traveled by at least `min_travel` of its diagonal, as shadows, lamps and branches do
    not. Its `start` is sent once it will stay a visit; `early_start` sends it with the first answer, and says until
    then that it is `provisional`.

    >>> tw.CameraConfig(name="gate", source="rtsp://camera/stream", locate="motion").name
    'gate'
    """

    name: CameraName = "camera"
    source: str = Field(default="frames", min_length=1, repr=False)  # may hold a password
    size: tuple[int, int] | None = None
    poll_s: Seconds | None = Field(default=None, gt=0, le=3600)
    max_frame_megapixels: float = Field(default=MAX_FRAME_PIXELS / 1e6, gt=0, le=250)
    once: bool = False
    stride: int = Field(default=1, ge=1)
    locate: str = AUTO
    zones: tuple[Zone, ...] = ()
    min_area: float = Field(default=LocateOptions.min_area, gt=0, lt=1)
    presence: float = Field(default=LocateOptions.presence, gt=0, lt=1)
    detect_classes: tuple[str, ...] = Field(default=LocateOptions.detect_classes, min_length=1)
    detect_score: float = Field(default=LocateOptions.detect_score, gt=0, lt=1)
    classify_every: int = Field(default=1, ge=1)
    lost_after_s: float = Field(default=TrackingRules.lost_after_s, gt=0)
    parked_after_s: float = Field(default=TrackingRules.parked_after_s, gt=0)
    parked_for_s: float = Field(default=TrackingRules.parked_for_s, gt=0)
    min_hits: int = Field(default=3, ge=1)
    min_travel: float = Field(default=0.3, ge=0)
    early_start: bool = False

    @field_validator("source")
    @classmethod
    def _beside_the_file(cls, source: str, info: ValidationInfo) -> str:
        """Take a file or folder relative to the configuration file; a URL or a camera stays as it is."""
        if "://" in source or device_number(source) is not None:
            return source
        return source if info.context is None else str(beside_the_file(Path(source), info))


class WatchConfig(Record):
    """All cameras of a run, and the one model that answers for them.

    `ep` is `open_session`'s. `threads` are those of one inference; None leaves one core to the cameras.
    `allow_drift` accepts a model that does not answer here as it did at export. `model_sha256` names the only file
    that may be used as the model, `require_signature` the public key that it must be signed for; both hold for models
    that replace it too. `detector` finds the vehicles
    of cameras that `locate` by it; None takes the one that was pulled into the state folder. `batch` is how many crops
    go through the model at once, at most. `duration_s` ends the run. `keep_trying` waits for cameras that cannot be
    opened yet, instead of failing. `keep` puts the events into the summary, which a run of months should not.

    What surrounds the loop: `sinks` take the events, and `state` is the folder for what must outlive the run (the
    default one where it is None and something is to be kept). `monitor` is where metrics and health are served,
    `HOST:PORT`; None serves nothing. `page` is the web page, which shows visits from a store: one of the sinks.
    `collect` gathers hard examples in a folder, up to `collect_limit` bytes.

    >>> gate = tw.CameraConfig(name="gate", source="gate.mp4")
    >>> yard = tw.CameraConfig(name="yard", source="yard.mp4")
    >>> config = tw.WatchConfig(cameras=(gate, yard), model=tw.demo_model())
    >>> with tw.watch(config) as events:
    ...     sorted({event.camera for event in events})
    ['gate', 'yard']
    """

    cameras: tuple[CameraConfig, ...] = Field(default=(CameraConfig(),), min_length=1)
    model: ConfigPath | None = None
    ep: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    allow_drift: bool = False
    model_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    require_signature: ConfigPath | None = None
    detector: ConfigPath | None = None
    batch: int = Field(default=8, ge=1)
    duration_s: float | None = Field(default=None, gt=0)
    keep_trying: bool = False
    keep: bool = False
    sinks: tuple[SinkSettings, ...] = ()
    state: ConfigPath | None = None
    monitor: ServerAddress | None = None
    page: PageSettings | None = None
    collect: ConfigPath | None = None
    collect_limit: Size = Field(default=500_000_000, gt=0)

    @property
    def trust(self) -> Trust:
        """Return which model files may be used."""
        return Trust(self.model_sha256, self.require_signature)

    @model_validator(mode="after")
    def _clips_have_one_folder(self) -> Self:
        if sum(sink.kind == "clips" for sink in self.sinks) > 1:
            raise ValueError("two sinks save clips: name one folder for them")
        return self

    @model_validator(mode="after")
    def _page_has_a_store(self) -> Self:
        if self.page is not None and all(sink.kind != "store" for sink in self.sinks):
            raise ValueError("the page shows visits from a store, and no sink is one: add a sink of the kind 'store'")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [camera.name for camera in self.cameras]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two cameras are called {twice[0]!r}: give each its own name")
        return self


def one_camera(source: str, **options: Any) -> WatchConfig:
    """Return the configuration of a run that watches one source.

    Args:
        source: what `open_source` takes.
        **options: fields of `CameraConfig` and `WatchConfig`. A zone may be written as on the command line.

    Raises:
        InputError: an option is unknown (the message names the nearest one), or a value is not allowed.
    """
    camera_fields = CameraConfig.model_fields.keys() - {"source"}
    run_fields = WatchConfig.model_fields.keys() - {"cameras"}
    for name in options:
        if name not in camera_fields | run_fields:
            raise InputError(f"no option {name!r}: {nearest(name, sorted(camera_fields | run_fields))}")
    camera = {name: value for name, value in options.items() if name in camera_fields}
    if "zones" in camera:
        camera["zones"] = tuple(parse_zone(zone) if isinstance(zone, str) else zone for zone in camera["zones"])
    try:
        return WatchConfig(
            cameras=(CameraConfig(source=source, **camera),),
            **{name: value for name, value in options.items() if name in run_fields},
        )
    except ValidationError as error:
        raise InputError(first_fault(error)) from error
