"""Build the configuration of `watch` from its options, as `cameras.toml` would define it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from twincar_edge.errors import InputError, parameter_fault, parameter_spelling

if TYPE_CHECKING:
    from twincar_edge.runtime.configuration.config import WatchConfig
    from twincar_edge.runtime.sinks.settings import SinkSettings, StdoutSettings

Settings = TypeVar("Settings", bound="SinkSettings")
NONE = "none"  # value of --store that disables it
PICTURES_LIMIT = 500_000_000  # bytes of pictures kept for the page without --save-crops
# Options that are allowed with --config: the file has no keys for them.
_NOT_IN_FILE = ("config_file", "truth", "annotate", "show", "as_json")


def watch_config(
    source: str | None, config_file: Path | None, options: Mapping[str, Any], *, terminal: bool
) -> WatchConfig:
    """Return the configuration given by the command line.

    Args:
        source: SOURCE, or None.
        config_file: a cameras.toml instead of SOURCE, or None.
        options: the values of `camera_options` and `run_options`.
        terminal: print a table, because standard output is a terminal.

    Raises:
        InputError: an option or the file is invalid.
    """
    if (source is None) == (config_file is None):
        raise click.UsageError("give either SOURCE or --config FILE")
    if config_file is not None:
        return _from_file(config_file, terminal)
    assert source is not None
    from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig, one_camera
    from twincar_edge.runtime.configuration.page_settings import PageSettings

    fields = (*CameraConfig.model_fields, *WatchConfig.model_fields)
    given = {name: value for name in fields if (value := options.get(name)) is not None and value is not False}
    if "page" in given:
        given["page"] = PageSettings(address=given["page"])
    if "size" in given:
        given["size"] = parse_size(given["size"])
    if "detect_classes" in given:
        given["detect_classes"] = tuple(name.strip() for name in given["detect_classes"].split(","))
    return one_camera(source, sinks=tuple(_sinks(source, options, terminal)), **given)


def _from_file(config_file: Path, terminal: bool) -> WatchConfig:
    """Read the file. Events go to its sinks, or to standard output if it has none."""
    from twincar_edge.runtime.configuration.config_file import key_spelling, read_config
    from twincar_edge.runtime.sinks.settings import StdoutSettings

    context = click.get_current_context()
    context.find_root().with_resource(parameter_spelling(key_spelling))
    refuse_options_of_file(context, config_file)
    config = read_config(config_file)
    named = config.sinks or (StdoutSettings(),)
    sinks = (
        _standard_output(str(config_file), terminal, one) if isinstance(one, StdoutSettings) else one for one in named
    )
    return config.model_copy(update={"sinks": tuple(sinks)})


def refuse_options_of_file(context: click.Context, config_file: Path) -> None:
    """Check that only options without a key in the file are combined with it.

    Raises:
        click.UsageError: another option is given.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source == ParameterSource.COMMANDLINE and parameter.name not in _NOT_IN_FILE:
            raise click.UsageError(f"{parameter.opts[-1]} cannot be combined with --config: set it in {config_file}")


def _sinks(source: str, options: Mapping[str, Any], terminal: bool) -> list[SinkSettings]:
    from twincar_edge.runtime.sinks.settings import (
        ClipsSettings,
        CropsSettings,
        StoreSettings,
        WebhookSettings,
        file_settings,
        mqtt_settings,
    )
    from twincar_edge.runtime.storage.state import StateFolder

    sinks: list[SinkSettings] = []
    if options["output"] is not None:
        sinks.append(file_settings(options["output"]))
    if terminal or options["output"] is None:
        sinks.append(_standard_output(source, terminal))
    limits = {name: options[f"store_{name}"] for name in ("limit", "age")}
    if options["store"] != NONE:
        sinks.append(_checked(StoreSettings.model_validate, "store_", path=options["store"], **limits))
    elif any(limits.values()):
        raise click.UsageError("--store-limit and --store-age cannot be combined with --store none")
    if options["webhook"] is not None:
        sinks.append(WebhookSettings(url=options["webhook"]))
    if options["mqtt"] is not None:
        sinks.append(mqtt_settings(options["mqtt"]))
    for what, settings in (("crops", CropsSettings), ("clips", ClipsSettings)):
        path, limit, age = (options[name] for name in (f"save_{what}", f"{what}_limit", f"{what}_age"))
        if path is not None:
            sinks.append(_checked(settings.model_validate, f"{what}_", path=path, limit=limit, age=age))
        elif limit is not None or age is not None:
            raise click.UsageError(f"--{what}-limit and --{what}-age need --save-{what} DIR")
    if options["page"] is not None and options["save_crops"] is None:
        path = StateFolder(options["state"]).pictures
        sinks.append(CropsSettings(path=path, limit=PICTURES_LIMIT))
    return sinks


def _checked(validate: Callable[..., Settings], prefix: str, **values: Any) -> Settings:
    """Return settings from options, whose names have a prefix before those of the keys.

    Raises:
        InputError: a value is invalid.
    """
    from pydantic import ValidationError

    try:
        return validate(values)
    except ValidationError as error:
        raise InputError(*parameter_fault(error, prefix)) from error


def _standard_output(title: str, terminal: bool, settings: StdoutSettings | None = None) -> SinkSettings:
    """Return the sink for standard output: a table on a terminal, otherwise `settings`."""
    from twincar_edge.runtime.sinks.settings import StdoutSettings, TableSettings
    from twincar_edge.runtime.sources import redact_url

    settings = settings or StdoutSettings()
    return TableSettings(title=redact_url(title), name=settings.name, types=settings.types) if terminal else settings


def parse_size(text: str) -> tuple[int, int]:
    """Parse `WIDTHxHEIGHT`.

    Raises:
        InputError: the text has another form.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and 0 < len(part) <= 5 for part in parts):
        raise InputError(f"invalid size {text!r}: use WIDTHxHEIGHT, for example 1920x1080")
    return int(parts[0]), int(parts[1])
