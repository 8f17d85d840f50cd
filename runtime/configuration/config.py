"""The validated configuration of a run, which `cameras.toml` and the command line's options are parsed into."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from twincar_edge.errors import InputError, nearest
from twincar_edge.records import Settings, Sha256, in_words
from twincar_edge.runtime.configuration.key_uses import KEY_USES, no_effect, place
from twincar_edge.runtime.configuration.page_settings import PageSettings, ServerAddress
from twincar_edge.runtime.locating.choice import AUTO
from twincar_edge.runtime.locating.locate import LocateOptions
from twincar_edge.runtime.locating.zones import PlaceName, Zone, parse_zone
from twincar_edge.runtime.quantities import ConfigPath, Duration, Seconds, Size, relative_to_config
from twincar_edge.runtime.sinks.settings import SinkSettings
from twincar_edge.runtime.sources import Source, open_source
from twincar_edge.runtime.sources.bounds import MAX_FRAME_PIXELS
from twincar_edge.runtime.sources.devices import device_number
from twincar_edge.runtime.tracking.tracker import TrackingRules
from twincar_edge.trust import Trust

ModelDigest = Annotated[Sha256, in_words("the 64 hex digits that `twincar-edge inspect` prints, in lower case")]
Pixels = Annotated[int, Field(ge=1, le=99_999)]


class CameraConfig(Settings):
    """One camera (or file, or folder): the source of its frames, and how to find vehicles in them.

    For `source`, `once`, `stride`, `size` and `poll_s`, see `open_source`; `max_frame_megapixels` is its `max_pixels`
    in millions. `locate` is a name in `LOCATORS`, or `auto`, which `choose_locator` resolves. For `zones` to
    `detect_score`, see `LocateOptions`. `classify_every` classifies a vehicle in every Nth frame. For `lost_after_s`,
    `parked_after_s` and `parked_for_s`, see `TrackingRules`.

    A track becomes a visit when the vehicle was found in at least `min_hits` frames and, with a locator whose boxes
    move, has traveled at least `min_travel` of its box's diagonal, which shadows, lamps and branches do not. The
    `start` event is published when the visit is confirmed. `early_start` publishes it with the first answer, marked as
    `provisional`.

    A key that the source or the locator does not read is an error (`KEY_USES`).

    >>> tw.CameraConfig(name="gate", source="rtsp://camera/stream", locate="motion").name
    'gate'
    """

    name: PlaceName = "camera"
    source: str = Field(default="frames", min_length=1, repr=False)  # may hold a password
    size: tuple[Pixels, Pixels] | None = None
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
    lost_after_s: Duration = TrackingRules.lost_after_s
    parked_after_s: Duration = TrackingRules.parked_after_s
    parked_for_s: Duration = TrackingRules.parked_for_s
    min_hits: int = Field(default=3, ge=1)
    min_travel: float = Field(default=0.3, ge=0)
    early_start: bool = False

    @classmethod
    def from_python(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Accept a path or a camera's index as the source, and zones as on the command line.

        A validator of the zones would turn off strict validation of what is inside them.
        """
        source, zones = values.get("source"), values.get("zones")
        if isinstance(source, int | Path) and not isinstance(source, bool):
            values = values | {"source": str(source)}
        if isinstance(zones, Sequence) and not isinstance(zones, str):
            values = values | {"zones": [parse_zone(zone) if isinstance(zone, str) else zone for zone in zones]}
        return values

    @field_validator("source")
    @classmethod
    def _beside_the_file(cls, source: str, info: ValidationInfo) -> str:
        """Resolve a file or folder against the configuration file's folder; leave URLs and devices as they are."""
        if "://" in source or device_number(source) is not None:
            return source
        return source if info.context is None else str(relative_to_config(Path(source), info))

    @field_validator(*KEY_USES)
    @classmethod
    def _has_an_effect(cls, value: Any, info: ValidationInfo) -> Any:
        use, default = KEY_USES[str(info.field_name)], cls.model_fields[str(info.field_name)].default
        if value != default and use.by in info.data:  # absent if it is invalid itself
            found = place(use, info.data["source"], info.data.get("locate", AUTO))
            if found in use.refused_by:
                raise ValueError(f"has no effect {no_effect(use, found)}; remove it")
        return value

    def without_effect(self, locator: str) -> Iterator[tuple[str, str]]:
        """Yield each key that was set and that this source or locator does not read, and a text; see `no_effect`."""
        for key, use in KEY_USES.items():
            if getattr(self, key) != type(self).model_fields[key].default:
                text = no_effect(use, place(use, self.source, locator))
                if text is not None:
                    yield key, text


def open_camera(
    camera: CameraConfig,
    *,
    stop: threading.Event | None = None,
    keep_trying: bool = False,
    seen: Path | None = None,
) -> Source:
    """Open a camera's source with its settings; see `open_source`.

    Raises:
        InputError: it does not exist, cannot be opened, or is of an unknown kind.
    """
    return open_source(
        camera.source,
        once=camera.once,
        stride=camera.stride,
        stop=stop,
        size_wh=camera.size,
        keep_trying=keep_trying,
        seen=seen,
        poll_s=camera.poll_s,
        max_pixels=round(1e6 * camera.max_frame_megapixels),
    )


class WatchConfig(Settings):
    """All cameras of a run, and the model that classifies their vehicles.

    For `ep`, see `open_session`. `threads` is the number of threads per inference; None leaves one core to the cameras.
    `allow_drift` accepts a model that does not answer here as it did at export. `model_sha256` is the digest of the
    only file that may be used as the model, `require_signature` the public key to verify its signature with; both also
    apply to models that replace it. `detector` is the detector's file; None uses the one that was pulled into the state
    folder. `batch` is the most crops in one inference. `duration_s` ends the run. `keep_trying` waits for cameras that
    cannot be opened yet, instead of failing. `keep` adds the events to the summary, which uses too much memory in a run
    of months.

    The parts around the loop: `sinks` receive the events. `state` is the folder for everything that outlives the run;
    None uses the default folder if something must be stored. `monitor` is the address (`HOST:PORT`) that serves metrics
    and health; None serves nothing. `page` is the web page, which shows visits from a store, so one of the sinks must
    be a store. `collect` is a folder for hard examples, up to `collect_limit` bytes.

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
    model_sha256: ModelDigest | None = None
    require_signature: ConfigPath | None = None
    detector: ConfigPath | None = None
    batch: int = Field(default=8, ge=1)
    duration_s: Duration | None = None
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

    @field_validator("collect_limit")
    @classmethod
    def _limits_a_folder(cls, limit: int, info: ValidationInfo) -> int:
        if limit != cls.model_fields["collect_limit"].default and info.data.get("collect", ...) is None:
            raise ValueError("has no effect without `collect`: set it to a folder, or remove `collect_limit`")
        return limit

    @model_validator(mode="after")
    def _clips_have_one_folder(self) -> Self:
        if sum(sink.kind == "clips" for sink in self.sinks) > 1:
            raise ValueError("two sinks save clips, only one can: remove one")
        return self

    @model_validator(mode="after")
    def _page_has_a_store(self) -> Self:
        if self.page is not None and all(sink.kind != "store" for sink in self.sinks):
            raise ValueError("the page needs a store, but there is none: add a sink of the kind 'store'")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [camera.name for camera in self.cameras]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two cameras have the name {twice[0]!r}: give each its own")
        return self


def one_camera(source: str, **options: Any) -> WatchConfig:
    """Return the configuration of a run with one source.

    Args:
        source: see `open_source`.
        **options: fields of `CameraConfig` and `WatchConfig`. A zone may be a text, as on the command line.

    Raises:
        InputError: an option is unknown (the message names the nearest one), or a value is invalid.
    """
    camera_fields = CameraConfig.model_fields.keys() - {"source"}
    run_fields = WatchConfig.model_fields.keys() - {"cameras"}
    for name in options:
        if name not in camera_fields | run_fields:
            raise InputError(f"no option {name!r}: {nearest(name, sorted(camera_fields | run_fields))}")
    camera = {name: value for name, value in options.items() if name in camera_fields}
    return WatchConfig(
        cameras=(CameraConfig(source=source, **camera),),
        **{name: value for name, value in options.items() if name in run_fields},
    )
