"""The table of execution providers: how each is attached, and its error if it cannot be used."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.tiny_model import tiny_model
from twincar_edge.errors import InputError
from twincar_edge.runtime.inference import providers
from twincar_edge.runtime.inference.session import open_session


class Wheel:
    """ONNX Runtime as another wheel of it: what a provider asks of it is kept."""

    def __init__(self, *available: str) -> None:
        self.available = list(available)
        self.preloaded = 0

    def get_available_providers(self) -> list[str]:
        return [*self.available, providers.CPU]

    def preload_dlls(self) -> None:
        self.preloaded += 1
        sys.stdout.write("Failed to load libcudnn.so.9\n")


@pytest.fixture
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process be one that has not registered OpenVINO's plugin yet."""
    monkeypatch.setattr(providers, "_openvino_registered", [])


def attached(ep: str, ort: Wheel, threads: int = 2) -> list[tuple[str, dict[str, str]]]:
    """Return the providers, with their settings, that a provider of the table puts into session options."""
    found: list[tuple[str, dict[str, str]]] = []
    options = SimpleNamespace(add_provider=lambda name, settings: found.append((name, settings)))
    providers.PROVIDERS[ep].attach(ort, options, threads)  # type: ignore[arg-type]
    return found


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize(("ep", "preloaded"), [("cuda", 1), ("tensorrt", 1), ("cpu", 0), ("openvino", 0)])
def test_only_nvidia_providers_load_cuda_libraries_once_and_without_printing(
    ep: str,
    preloaded: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ort = Wheel(providers.PROVIDERS[ep].ort_name)
    with caplog.at_level(logging.WARNING):
        attached(ep, ort)
        attached(ep, ort)
    assert ort.preloaded == preloaded
    assert capsys.readouterr().out == ""
    assert caplog.text.count("Failed to load libcudnn.so.9") == preloaded


def test_tensorrt_caches_engines_in_a_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none" / "yet"))
    settings = providers._tensorrt_settings()
    assert Path(settings["trt_engine_cache_path"]).is_dir()
    assert settings["trt_timing_cache_path"] == settings["trt_engine_cache_path"]


def test_a_cache_folder_that_cannot_be_created_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert providers._tensorrt_settings() == {}
    assert "TensorRT builds its engine at each start (Not a directory)" in caplog.text


@pytest.mark.usefixtures("unregistered")
def test_built_in_openvino_is_preferred_to_the_plugin() -> None:
    ort = Wheel(providers.OPENVINO)
    assert providers.PROVIDERS["openvino"].obstacle(ort, "openvino") is None  # type: ignore[arg-type]
    [(name, settings)] = attached("openvino", ort, threads=3)
    assert (name, settings["device_type"]) == (providers.OPENVINO, "CPU")
    config = json.loads(settings["load_config"])["CPU"]
    assert (config["INFERENCE_NUM_THREADS"], config["INFERENCE_PRECISION_HINT"]) == ("3", "f32")


@pytest.mark.usefixtures("unregistered")
def test_the_plugin_is_attached_by_device_even_after_it_is_listed_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ONNX Runtime 1.32 lists a registered plugin among the built-in providers, and refuses to attach it as one."""
    device = SimpleNamespace(ep_name=providers.OPENVINO, ep_metadata={"ov_device": "CPU"})

    class Plain(Wheel):
        def register_execution_provider_library(self, *_: str) -> None:
            self.available.append(providers.OPENVINO)

        def get_ep_devices(self) -> list[SimpleNamespace]:
            return [device]

    ort = Plain()
    plugin = SimpleNamespace(get_library_path=lambda: "plugin.so", get_ep_name=lambda: providers.OPENVINO)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", plugin)
    monkeypatch.setattr(providers.util, "find_spec", lambda name: name)
    found: list[tuple[list[object], dict[str, str]]] = []
    options = SimpleNamespace(add_provider_for_devices=lambda devices, settings: found.append((devices, settings)))
    openvino = providers.PROVIDERS["openvino"]
    for _ in range(2):
        assert openvino.obstacle(ort, "openvino") is None  # type: ignore[arg-type]
        openvino.attach(ort, options, 3)  # type: ignore[arg-type]
    assert ort.available == [providers.OPENVINO]
    assert [devices for devices, _ in found] == [[device], [device]]
    assert json.loads(found[0][1]["load_config"])["CPU"]["INFERENCE_NUM_THREADS"] == "3"


def test_the_openvino_plugin_answers_as_the_cpu_provider(tmp_path: Path) -> None:
    if "openvino" not in providers.usable_providers():
        pytest.skip("the OpenVINO plugin is not installed, or this CPU is not Intel's")
    batch = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    model = tiny_model(tmp_path / "tiny.onnx")
    session = open_session(model, ep="openvino", threads=1)
    assert session.ep == "openvino"
    np.testing.assert_allclose(session.run(batch), open_session(model, ep="cpu", threads=1).run(batch), rtol=1e-3)


def test_a_plugin_without_a_device_recommends_the_wheel_with_built_in_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.util, "find_spec", lambda name: name)
    monkeypatch.setattr(providers, "_openvino_devices", lambda ort: [])
    obstacle = providers.PROVIDERS["openvino"].obstacle(Wheel(), "openvino")  # type: ignore[arg-type]
    assert isinstance(obstacle, InputError)
    assert "`ep='cpu'`" in str(obstacle)
    assert "pip uninstall onnxruntime, then pip install onnxruntime-openvino" in str(obstacle)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Let NVIDIA's driver answer with this code, or be missing."""

    def answer(code: int | None) -> None:
        def load(name: str) -> SimpleNamespace:
            assert "cuda" in name
            if code is None:
                raise OSError(f"{name}: cannot open shared object file")
            return SimpleNamespace(cuInit=lambda _flags: code)

        monkeypatch.setattr(providers.ctypes, "CDLL", load)

    return answer


@pytest.mark.parametrize("ep", ["cuda", "tensorrt"])
@pytest.mark.parametrize(
    ("code", "message"), [(None, "NVIDIA's driver was not found"), (100, r"finds no GPU \(cuInit: 100\)"), (0, None)]
)
def test_the_gpu_wheel_offers_cuda_only_if_the_driver_finds_a_gpu(
    driver: Callable[[int | None], None], ep: str, code: int | None, message: str | None
) -> None:
    driver(code)
    provider = providers.PROVIDERS[ep]
    obstacle = provider.obstacle(Wheel(provider.ort_name), ep)  # type: ignore[arg-type]
    if message is None:
        assert obstacle is None
    else:
        assert isinstance(obstacle, InputError)
        assert re.search(message, str(obstacle))
        assert "`ep='cpu'`" in str(obstacle)


@pytest.mark.parametrize(
    ("ep", "hint"),
    [
        ("CPU", "did you mean 'cpu'?"),
        ("CPUExecutionProvider", "did you mean 'cpu'?"),
        ("Cuda", "did you mean 'cuda'?"),
        ("openvno", "did you mean 'openvino'?"),
        ("gpu9000", "known: auto, cuda, openvino, cpu, tensorrt"),
    ],
)
def test_an_unknown_provider_gets_the_nearest_name(ep: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        providers.choose_provider(ep)
    assert str(caught.value) == f"no execution provider {ep!r}: {hint}"
