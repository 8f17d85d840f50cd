"""What a caller does wrong is a `TwincarError` in one line, for every public function and configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import twincar_edge as tw
from twincar_edge.export import ConfidenceOptions, Int8Config, Int8Search, ParityLimits
from twincar_edge.records import Settings
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.locating.zones import Zone
from twincar_edge.runtime.monitoring.health import HealthLimits
from twincar_edge.runtime.selftest.doctor import DoctorConfig
from twincar_edge.runtime.sinks.settings import CropsSettings, MqttSettings, SinkSettings, WebhookSettings
from twincar_edge.training.recipe import Recipe

DEMO = str(tw.demo_model())


class ElsewherePath:
    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (tw.Classifier, {"model": 5}),
        (tw.Classifier, {"model": DEMO, "ep": 5}),
        (tw.Classifier, {"model": DEMO, "threads": "2"}),
        (tw.Classifier, {"model": DEMO, "threads": 0}),
        (tw.Classifier, {"model": DEMO, "threads": -1}),
        (tw.watch, {"source": None}),
        (tw.watch, {"source": "gate.mp4", "max_queue": "5"}),
        (tw.watch, {"source": "gate.mp4", "zones": 5}),
        (tw.watch, {"source": "gate.mp4", "zones": "0,0 1,1"}),
        (tw.train, {"output": "run", "data": 5}),
        (tw.train, {"data": "cars", "output": "run", "changes": "epochs=1"}),
        (tw.train, {"data": "cars", "output": "run", "changes": {"epochs": object()}}),
        (tw.train, {"resume": 5}),
        (tw.evaluate, {"model": DEMO, "data": 5}),
        (tw.evaluate, {"model": "best.pt", "data": "cars", "threads": -1}),
        (tw.evaluate, {"model": DEMO, "data": "cars", "batch_size": 0}),
        (tw.export, {"checkpoint": "best.pt", "output": "models", "int8": True, "target": np.int64(5)}),
        (tw.export, {"checkpoint": "best.pt", "output": "models", "name": 5}),
        (tw.enroll, {"output": "new.onnx", "classes": [1]}),
        (tw.enroll, {"output": "new.onnx", "classes": {"Rigel Nova": "a.jpg"}}),
        (tw.enroll, {"output": "new.onnx", "remove": "Rigel Nova"}),
        (tw.enroll, {"output": "new.onnx", "classes": {"Rigel Nova": ["a.jpg"]}, "model": DEMO, "threads": 0}),
        (tw.score, {"source": "cars", "output": "names", "workers": "x"}),
        (tw.score, {"source": "cars", "output": "names", "progress": 5}),
        (tw.explain, {"image": "a.jpg", "model": 5}),
        (tw.explain, {"image": "a.jpg", "model": DEMO, "target": 1.5}),
        (tw.benchmark, {"models": 5}),
        (tw.benchmark, {"models": DEMO, "eps": "cpu"}),
        (tw.benchmark, {"models": DEMO, "batches": 5}),
        (tw.benchmark, {"models": DEMO, "fps": 0}),
        (tw.read_manifest, {"path": None}),
        (tw.explain, {"image": "a.jpg", "model": DEMO, "class_mapping": "class_mapping.json"}),
        (tw.score, {"source": "cars", "output": "names", "num_cpus": 2}),
        (tw.score, {"source": "cars", "output": "names", "num_gpus": 1}),
        (tw.enroll, {"output": "new.onnx", "remove": ["Rigel Nova"], "reach": 1.3}),
        (tw.benchmark, {"models": DEMO, "fps": 25, "rounds": 2}),
        (tw.resend_events, {"state": 5}),
        (tw.resend_events, {"since": "yesterday"}),
    ],
)
def test_a_wrong_argument_is_an_input_error(
    function: Callable[..., object], arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = list(arguments)[-1]
    with pytest.raises(tw.InputError, match=rf"{name}|camera pace") as caught:
        function(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (tw.WatchConfig, {"bath": 1}, "WatchConfig has no field 'bath': did you mean 'batch'?"),
        (tw.WatchConfig, {"threads": 0}, "`threads`: Input should be greater than or equal to 1"),
        (
            tw.WatchConfig,
            {"cameras": (tw.CameraConfig(),) * 2},
            "two cameras have the name 'camera': give each its own",
        ),
        (tw.CameraConfig, {"zone": ()}, "CameraConfig has no field 'zone': did you mean 'zones'"),
        (tw.CameraConfig, {"zones": "0,0 1,1"}, "`zones`: Input should be a valid tuple"),
        (Zone, {"points": ((0, 0), (0, 0.5))}, "`points`: the zone has no area"),
        (ParityLimits, {"agreement": 2}, "`agreement`: Input should be less than or equal to 1"),
        (ConfidenceOptions, {"false_acept": 0.1}, "did you mean 'false_accept'?"),
        (Int8Config, {"float_layers": -1}, "`float_layers`: Input should be greater than or equal to 0"),
        (Int8Search, {"target": 5}, "`target`: Input should be a valid string"),
        (Recipe, {"epochs": "many"}, "`epochs`: Input should be a valid integer"),
        (Recipe, {"epochs": True}, "`epochs`: Input should be a number, not a boolean"),
        (tw.CameraConfig, {"size": (True, 480)}, "`size`: Input should be a number, not a boolean"),
        (CropsSettings, {"path": "crops", "limit": "many"}, "`limit`: invalid size 'many'"),
        (CropsSettings, {"path": "crops", "age": True}, "`age`: Input should be a number, not a boolean"),
        (CropsSettings, {}, "`path`: Field required"),
        (MqttSettings, {"host": "broker", "prot": 1883}, "MqttSettings has no field 'prot': did you mean 'port'"),
        (WebhookSettings, {"url": "http://a/hook", "ca_file": "ca.pem"}, "ca_file requires TLS: use an https:// URL"),
        (PageSettings, {"address": "nowhere"}, "`address`: "),
        (PageSettings, {"key": "page.key"}, "`certificate` and `key` belong together: set both"),
        (HealthLimits, {"frame_age_s": -1}, "`frame_age_s`: Input should be greater than 0"),
        (DoctorConfig, {"threads": 0}, "`threads`: Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_field_of_a_configuration_is_an_input_error(
    config: Callable[..., object], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(tw.InputError) as caught:
        config(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [-1, "2"])
@pytest.mark.parametrize(
    ("method", "name"),
    [(tw.Prediction.to_dict, "top"), (tw.Evaluation.hardest, "count"), (tw.Evaluation.most_confused, "count")],
)
def test_a_wrong_count_is_an_input_error(method: Callable[..., object], name: str, count: object) -> None:
    with pytest.raises(tw.InputError, match=f"`{name}`"):
        method(None, count)


def test_all_sinks_have_settings_that_raise_input_errors() -> None:
    (kinds, _) = get_args(SinkSettings)
    assert len(get_args(kinds)) > 8 and all(issubclass(kind, Settings) for kind in get_args(kinds))


def test_numbers_of_numpy_and_other_paths_are_accepted(tmp_path: Path) -> None:
    assert tw.Classifier(ElsewherePath(DEMO), threads=np.int64(1), verify=np.bool_(False)).session.threads == 1
    assert tw.read_manifest(ElsewherePath(DEMO)).name == "twins"
    config = tw.WatchConfig(model=ElsewherePath("cars.onnx"), batch=np.int32(2))
    assert (config.model, config.batch) == (Path("cars.onnx"), 2)
    assert CropsSettings(path=ElsewherePath("crops")).path == Path("crops")
    camera = tw.CameraConfig(source=tmp_path, stride=np.int64(2), zones=["gate=0,0 1,1"])
    assert (camera.source, camera.stride, camera.zones[0].name) == (str(tmp_path), 2, "gate")
    assert tw.CameraConfig(source=0).source == "0"
