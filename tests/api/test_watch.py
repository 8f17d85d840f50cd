"""`tw.watch` checks its options and ignores none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import twincar_edge as tw
from twincar_edge.api import watch as module
from twincar_edge.api.watch import WatchOptions
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig

COMMAND_ONLY = {"sinks", "state", "monitor", "page", "collect", "collect_limit", "keep"}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of each stream that is opened."""
    calls: list[Any] = []
    monkeypatch.setattr(module, "EventStream", lambda config, **rest: calls.append((config, rest)))
    return calls


def test_every_field_of_a_run_is_an_option_or_is_rejected() -> None:
    fields = CameraConfig.model_fields.keys() | WatchConfig.model_fields.keys()
    assert set(WatchOptions.__annotations__) == fields - COMMAND_ONLY - {"source", "cameras", "model"}


def test_options_become_the_configuration(opened: list[Any]) -> None:
    tw.watch(Path("clip.mp4"), model="cars.onnx", name="gate", zones=["0,0.5 1,1"], stride=2, batch=4, max_queue=7)
    ((config, rest),) = opened
    (camera,) = config.cameras
    assert (camera.source, camera.name, camera.stride, len(camera.zones[0].points)) == ("clip.mp4", "gate", 2, 4)
    assert (config.model, config.batch) == (Path("cars.onnx"), 4)
    assert rest == {"classifier": None, "max_queue": 7}


def test_a_camera_is_named_by_its_index(opened: list[Any]) -> None:
    tw.watch(0)
    assert opened[0][0].cameras[0].source == "0"


def test_a_classifier_or_a_configuration_is_used_unchanged(opened: list[Any]) -> None:
    classifier = tw.Classifier(tw.demo_model())
    config = WatchConfig(cameras=(CameraConfig(name="a"), CameraConfig(name="b")))
    tw.watch(config, model=classifier)
    assert opened == [(config, {"classifier": classifier, "max_queue": 1000})]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zone": "0,0 1,1"}, "no option 'zone': did you mean 'zones'"),
        ({"sinks": ()}, "no option 'sinks': it is for `twincar-edge watch`"),
        ({"collect_limit": 5}, "no option 'collect_limit': it is for"),
        ({"cameras": ()}, "no option 'cameras'"),
        ({"stride": 0}, "`stride`: Input should be greater than or equal to 1"),
        ({"zones": ["nowhere"]}, "a zone is"),
    ],
)
def test_an_invalid_option_is_rejected(options: dict[str, Any], message: str, opened: list[Any]) -> None:
    with pytest.raises(tw.InputError, match=message):
        tw.watch("clip.mp4", **options)
    assert opened == []


def test_options_that_would_be_ignored_are_rejected(opened: list[Any]) -> None:
    classifier = tw.Classifier(tw.demo_model())
    for options in ({"threads": 2}, {"ep": "cpu"}, {"allow_drift": True}, {"model_sha256": "0" * 64}):
        with pytest.raises(tw.InputError, match="` has no effect on an open Classifier"):
            tw.watch("clip.mp4", model=classifier, **options)
    for name in ("model", "require_signature"):
        with pytest.raises(tw.InputError, match=f"`{name}` has no effect on an open Classifier"):
            tw.watch(WatchConfig(**{name: "file"}), model=classifier)
    with pytest.raises(tw.InputError, match="stride cannot be combined with a WatchConfig"):
        tw.watch(WatchConfig(), stride=2)
    with pytest.raises(tw.InputError, match="model cannot be combined with a WatchConfig"):
        tw.watch(WatchConfig(), model="cars.onnx")
    with pytest.raises(tw.InputError, match="monitor is for `twincar-edge watch`"):
        tw.watch(WatchConfig(monitor="127.0.0.1:0"))
    assert opened == []
