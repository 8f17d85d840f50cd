"""The options of `watch`, and the configuration that they make: the same that `cameras.toml` holds.

No option has a default of its own: what is not given is not passed on, and the configuration's default stands. The
help repeats it, since reading it from there would load half the runtime first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from twincar_edge.errors import InputError, parameter_spelling

if TYPE_CHECKING:
    from twincar_edge.runtime.configuration.config import WatchConfig
    from twincar_edge.runtime.sinks.settings import SinkSettings

Command = Callable[..., Any]
_PATH = click.Path(path_type=Path)
NONE = "none"  # as the store


def _all(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


# Each is a key of [[camera]].
camera_options = _all(
    click.option("--name", help="The camera's name, in events and metrics.  [default: camera]"),
    click.option("--size", metavar="WxH", help="Ask a camera of this machine for pictures of this size."),
    click.option(
        "--locate",
        type=click.Choice(["auto", "whole", "zone", "motion", "detector"]),
        help="How vehicles are found: by motion before a fixed camera, in zones, by a detector, or in the whole frame. "
        "auto: motion for video and cameras, the whole frame for images; a detector where one is given.  "
        "[default: auto]",
    ),
    click.option(
        "--zone",
        "zones",
        multiple=True,
        metavar='"X,Y X,Y X,Y"',
        help="A polygon (or two corners of a rectangle) in pixels, or in shares of the frame from 0 to 1. Only what "
        "lies inside counts; NAME= before it names it, exclude= leaves it out. May be given again.",
    ),
    click.option(
        "--min-area",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="The least share of the frame that a moving vehicle covers.  [default: 0.01]",
    ),
    click.option(
        "--detect-classes",
        metavar="NAME,…",
        help="What the detector looks for, by name or number, or any.  [default: car,bus,truck]",
    ),
    click.option(
        "--detect-score",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="How sure the detector must be.  [default: 0.3]",
    ),
    click.option("--stride", type=click.IntRange(min=1), help="Take every Nth frame.  [default: 1]"),
    click.option("--once", is_flag=True, help="Of a folder, only the images that are there; do not wait for more."),
    click.option(
        "--classify-every",
        type=click.IntRange(min=1),
        help="Classify a vehicle in every Nth of its frames.  [default: 1]",
    ),
    click.option(
        "--lost-after",
        "lost_after_s",
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds out of sight after which a vehicle has gone.  [default: 1]",
    ),
    click.option(
        "--parked-after",
        "parked_after_s",
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds after which a vehicle that drove up and stands is parked: it has not gone when it is no longer "
        "found.  [default: 3]",
    ),
    click.option(
        "--parked-for",
        "parked_for_s",
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds after which a parked vehicle that does not show again has gone.  [default: 86400]",
    ),
)

# Each is a key at the top of the file, or of [[sink]].
run_options = _all(
    click.option("--model", type=_PATH, help="An exported .onnx file.  [default: the bundled model]"),
    click.option("--ep", help="Execution provider.  [default: auto]"),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="CPU threads of one inference.  [default: all usable cores but one]",
    ),
    click.option("--batch", type=click.IntRange(min=1), help="Crops in one inference.  [default: 8]"),
    click.option(
        "--allow-drift",
        is_flag=True,
        help="Go on with a model whose answers to its golden inputs are not those of its export.",
    ),
    click.option("--detector", type=_PATH, help="An ONNX detector in the YOLOX layout, for --locate detector."),
    click.option(
        "--duration", "duration_s", type=click.FloatRange(min=0, min_open=True), help="Stop after so many seconds."
    ),
    click.option("--keep-trying", is_flag=True, help="Wait for a camera that cannot be opened yet."),
    click.option(
        "-o",
        "--output",
        type=_PATH,
        help="Append the events to this file (.jsonl or .csv), instead of writing them to standard output.",
    ),
    click.option(
        "--store",
        metavar="PATH|none",
        help="Keep the events in this database.  [default: of a camera, in the state folder]",
    ),
    click.option(
        "--state", type=_PATH, help="Folder for what outlives a run.  [default: $TWINCAR_STATE, or the system's]"
    ),
    click.option("--webhook", metavar="URL", help="Send the events to this address, signed."),
    click.option("--mqtt", metavar="mqtt[s]://HOST[:PORT][/TOPIC]", help="Publish the events at this broker."),
    click.option("--save-crops", type=_PATH, help="Save each vehicle's best picture in this folder."),
    click.option("--crops-limit", metavar="SIZE", help="Remove the oldest pictures above this size, such as 500MB."),
    click.option("--crops-age", metavar="TIME", help="Remove pictures that are older than this, such as 30d."),
    click.option("--save-clips", type=_PATH, help="Save a short video of each vehicle in this folder."),
    click.option("--clips-limit", metavar="SIZE", help="Remove the oldest videos above this size, such as 2GB."),
    click.option("--clips-age", metavar="TIME", help="Remove videos that are older than this, such as 7d."),
    click.option("--monitor", metavar="HOST:PORT", help="Serve /metrics and /healthz there, such as 127.0.0.1:9464."),
    click.option("--collect", type=_PATH, help="Gather pictures that the model is unsure of in this folder."),
    click.option("--collect-limit", metavar="SIZE", help="At most so many bytes of them.  [default: 500MB]"),
)


def watch_config(
    source: str | None, config_file: Path | None, options: Mapping[str, Any], *, terminal: bool
) -> WatchConfig:
    """Return the configuration that the command line asks for.

    Args:
        source: SOURCE, or None.
        config_file: a cameras.toml in place of it, or None.
        options: the values of `camera_options` and `run_options`.
        terminal: standard output is a terminal that shall show a table.

    Raises:
        InputError: something in it cannot be meant, or the file is wrong.
    """
    if (source is None) == (config_file is None):
        raise click.UsageError("give a SOURCE, or --config FILE with cameras in it")
    if config_file is not None:
        return _from_file(config_file, terminal)
    assert source is not None
    from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig, one_camera

    fields = (*CameraConfig.model_fields, *WatchConfig.model_fields)
    given = {name: value for name in fields if (value := options.get(name)) is not None and value is not False}
    if "size" in given:
        given["size"] = _size(given["size"])
    if "detect_classes" in given:
        given["detect_classes"] = tuple(name.strip() for name in given["detect_classes"].split(","))
    return one_camera(source, sinks=tuple(_sinks(source, options, terminal)), **given)


def _from_file(config_file: Path, terminal: bool) -> WatchConfig:
    """Read the file; what stands in it is all there is, but a terminal or pipe always gets the events too."""
    from twincar_edge.runtime.configuration.config_file import key_spelling, read_config
    from twincar_edge.runtime.sinks.settings import StoreSettings

    context = click.get_current_context()
    context.find_root().with_resource(parameter_spelling(key_spelling))
    given = [
        parameter
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
        and parameter.name not in ("config_file", "truth", "as_json")
    ]
    if given:
        raise click.UsageError(f"{given[0].opts[-1]} cannot be combined with --config: write it into {config_file}")
    config = read_config(config_file)
    sinks = list(config.sinks)
    if not any(isinstance(sink, StoreSettings) for sink in sinks):
        sinks.append(StoreSettings())
    return config.model_copy(update={"sinks": (*sinks, _screen(str(config_file), terminal))})


def _sinks(source: str, options: Mapping[str, Any], terminal: bool) -> list[SinkSettings]:
    from twincar_edge.runtime.sinks.settings import (
        ClipsSettings,
        CropsSettings,
        StoreSettings,
        WebhookSettings,
        file_settings,
        mqtt_settings,
    )
    from twincar_edge.runtime.sources import is_camera

    sinks: list[SinkSettings] = []
    if options["output"] is not None:
        sinks.append(file_settings(options["output"]))
    if terminal or options["output"] is None:
        sinks.append(_screen(source, terminal))
    if options["store"] not in (None, NONE):
        sinks.append(StoreSettings(path=Path(options["store"])))
    elif options["store"] is None and is_camera(source, once=options["once"]):
        sinks.append(StoreSettings())
    if options["webhook"] is not None:
        sinks.append(WebhookSettings(url=options["webhook"]))
    if options["mqtt"] is not None:
        sinks.append(mqtt_settings(options["mqtt"]))
    for what, settings in (("crops", CropsSettings), ("clips", ClipsSettings)):
        path, limit, age = (options[name] for name in (f"save_{what}", f"{what}_limit", f"{what}_age"))
        if path is not None:
            sinks.append(settings(path=path, limit=limit, age=age))
        elif limit is not None or age is not None:
            raise click.UsageError(f"--{what}-limit and --{what}-age belong to --save-{what} DIR")
    return sinks


def _screen(title: str, terminal: bool) -> SinkSettings:
    from twincar_edge.runtime.sinks.settings import JsonLinesSettings, TableSettings
    from twincar_edge.runtime.sources import redact_url

    return TableSettings(title=redact_url(title)) if terminal else JsonLinesSettings()


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and 0 < len(part) <= 5 for part in parts):
        raise InputError(f"a size is WIDTHxHEIGHT, such as 1920x1080, found {text!r}")
    return int(parts[0]), int(parts[1])
