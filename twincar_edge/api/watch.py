"""`tw.watch`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from twincar_edge.arguments import checked_arguments, refuse_unused
from twincar_edge.errors import InputError, nearest
from twincar_edge.runtime.configuration.config import WatchConfig, one_camera
from twincar_edge.runtime.event_stream import MAX_QUEUE, EventStream
from twincar_edge.runtime.inference.classifier import Classifier

if TYPE_CHECKING:
    from twincar_edge.runtime.locating.zones import Zone


class WatchOptions(TypedDict, total=False):
    """The options of `watch`: fields of `CameraConfig`, then of `WatchConfig`, which document them."""

    name: str
    size: tuple[int, int]
    poll_s: float
    max_frame_megapixels: float
    once: bool
    stride: int
    locate: Literal["auto", "whole", "zone", "motion", "detector"]
    zones: Sequence[str | Zone]
    min_area: float
    presence: float
    detect_classes: Sequence[str]
    detect_score: float
    classify_every: int
    early_start: bool
    lost_after_s: float
    parked_after_s: float
    parked_for_s: float
    min_hits: int
    min_travel: float
    ep: str
    threads: int
    allow_drift: bool
    model_sha256: str
    require_signature: str | Path
    detector: str | Path
    batch: int
    duration_s: float
    keep_trying: bool


# Fields of `WatchConfig` that only the command uses. A program handles the events itself.
_OF_THE_COMMAND = ("sinks", "state", "monitor", "page", "collect", "collect_limit", "keep")
# Fields of `WatchConfig` that decide how the model is opened. The first two also open a detector.
_OF_OPENING = ("ep", "threads", "model", "allow_drift", "model_sha256", "require_signature")


@checked_arguments
def watch(
    source: str | Path | int | WatchConfig,
    *,
    model: str | Path | Classifier | None = None,
    max_queue: int = MAX_QUEUE,
    **options: Unpack[WatchOptions],
) -> EventStream:
    """Watch a camera, video or folder, and iterate over the events of the vehicles that pass.

    The camera loop runs in its own thread, as in `twincar-edge watch`. This function opens the sources and the model
    before it returns. `EventStream` documents slow consumers and the end of a run.

    >>> for event in tw.watch("gate.mp4", model=tw.demo_model()):
    ...     if event.type == "end":
    ...         print(event.name, event.direction)
    ...         break
    Pollux Taurus Crew Cab 2018 left_to_right

    Args:
        source: /dev/video0, a camera's index, an rtsp:// or http:// stream, a video file, an image, a folder of images
            or a pattern; or a `WatchConfig` with several cameras.
        model: an exported .onnx file, or a `Classifier` to share; None for the bundled model.
        max_queue: the most events that may wait for the consumer.
        **options: fields of `CameraConfig` and `WatchConfig`. A zone may be a string like "0,0.5 1,1".

    Raises:
        InputError: the source cannot be opened, or an option does not exist or has an invalid value.
        ModelError: the model cannot be used, or its answers on this machine differ from those at export.
        MissingExtraError: ONNX Runtime is not installed.
    """
    known = tuple(WatchOptions.__annotations__)
    for name in options:
        if name in _OF_THE_COMMAND:
            raise InputError(f"no option {name!r}: it is for `twincar-edge watch`; use the events in your program")
        if name not in known:
            raise InputError(f"no option {name!r}: {nearest(name, known)}")
    classifier = model if isinstance(model, Classifier) else None
    if isinstance(source, WatchConfig):
        config = _checked(source, model, options)
    else:
        config = one_camera(str(source), model=None if classifier is not None else model, **options)
    if classifier is not None:
        unread = _OF_OPENING if config.detector is None else _OF_OPENING[2:]
        refuse_unused("on an open Classifier", **{name: _is_set(config, name) for name in unread})
    return EventStream(config, classifier=classifier, max_queue=max_queue)


def _checked(config: WatchConfig, model: object, options: WatchOptions) -> WatchConfig:
    """Return the configuration if an event stream supports all of it."""
    if options or isinstance(model, str | Path):
        given = next(iter(options), "model")
        raise InputError(f"{given} cannot be combined with a WatchConfig: set it there")
    for name in _OF_THE_COMMAND:
        if _is_set(config, name):
            raise InputError(f"{name} is for `twincar-edge watch`: leave it out, and use the events in your program")
    return config


def _is_set(config: WatchConfig, name: str) -> bool:
    return bool(getattr(config, name) != WatchConfig.model_fields[name].default)
