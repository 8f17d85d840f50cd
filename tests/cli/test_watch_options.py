"""The options of `watch` create the same configuration as `cameras.toml`, with the same defaults."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from tests import REPOSITORY
from twincar_edge.cli.watch import command
from twincar_edge.cli.watch_options import watch_config
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.locating.choice import Choice
from twincar_edge.runtime.loop.camera import CameraThread
from twincar_edge.runtime.loop.inbox import Inbox
from twincar_edge.runtime.monitoring.stages import Stages
from twincar_edge.runtime.sinks.settings import ClipsSettings, CropsSettings, StdoutSettings, StoreSettings
from twincar_edge.runtime.sources import FrameSource
from twincar_edge.runtime.visits import VisitMaker


def options_of(*arguments: str) -> dict[str, Any]:
    """Return the values of all options as the command receives them."""
    params = command.make_context("watch", ["gate.mp4", *arguments]).params
    return {name: value for name, value in params.items() if name != "source"}


def config_of(*arguments: str) -> WatchConfig:
    return watch_config("gate.mp4", None, options_of(*arguments), terminal=False)


def with_defaults() -> Iterator[tuple[type[BaseModel], click.Option]]:
    """Yield each option whose key has a default, with the model of the key."""
    for option in command.params:
        for model in (CameraConfig, WatchConfig):
            field = model.model_fields.get(option.name or "")
            if isinstance(option, click.Option) and field is not None and field.default not in (None, False, ()):
                yield model, option


def test_missing_options_equal_missing_keys_of_a_file() -> None:
    assert config_of() == WatchConfig(
        cameras=(CameraConfig(source="gate.mp4"),), sinks=(StdoutSettings(), StoreSettings())
    )


@pytest.mark.parametrize(("model", "option"), list(with_defaults()), ids=lambda one: getattr(one, "name", ""))
def test_the_help_shows_the_default_of_the_key(model: type[BaseModel], option: click.Option) -> None:
    default = model.model_fields[option.name or ""].default
    said = re.search(r"\[default: (.*)\]", option.help or "")
    assert said is not None, option.opts
    text: object = tuple(said[1].split(",")) if isinstance(default, tuple) else said[1]
    assert getattr(model.model_validate({option.name: text}), option.name or "") == default


def test_every_option_that_the_documentation_gives_for_a_key_sets_that_key() -> None:
    operations = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| `(--[\w-]+)` \|", operations, re.MULTILINE)
    options = {opt: parameter.name for parameter in command.params for opt in parameter.opts}
    assert len(rows) > 15
    for key, option in rows:
        assert options[option] == key


def test_numbers_reach_the_camera() -> None:
    arguments = (
        "--lost-after",
        "2",
        "--parked-after",
        "5",
        "--parked-for",
        "3600",
        "--min-area",
        "0.02",
        "--stride",
        "3",
    )
    (camera,) = config_of(*arguments).cameras
    assert (camera.lost_after_s, camera.parked_after_s, camera.parked_for_s) == (2, 5, 3600)
    assert (camera.min_area, camera.stride) == (0.02, 3)


def test_parking_times_reach_the_tracker() -> None:
    config = CameraConfig(lost_after_s=2, parked_after_s=5, parked_for_s=3600)
    source, stop = FrameSource([]), threading.Event()
    maker = VisitMaker(source.name)
    choice = Choice("motion", "a test")
    rules = CameraThread(config, source, maker, Inbox(1), Stages(), stop, choice=choice)._tracker.rules
    assert (rules.lost_after_s, rules.parked_after_s, rules.parked_for_s) == (2, 5, 3600)


def test_pictures_and_clips_have_their_limits() -> None:
    arguments = ("--save-clips", "clips", "--clips-limit", "2GB", "--clips-age", "7d", "--save-crops", "crops")
    *_, crops, clips = config_of(*arguments).sinks
    assert crops == CropsSettings(path=Path("crops"))
    assert clips == ClipsSettings(path=Path("clips"), limit=2 * 10**9, age=timedelta(days=7))


def test_the_store_has_limits_like_pictures() -> None:
    (_stdout, store) = config_of("--store-limit", "1GB", "--store-age", "365d").sinks
    assert store == StoreSettings(limit=10**9, age=timedelta(days=365))
    with pytest.raises(click.UsageError, match="--store-age cannot be combined with --store none"):
        config_of("--store", "none", "--store-age", "1d")
