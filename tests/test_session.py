"""Opening a model: what is ours opens on the provider asked for, and everything else is one clear line."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_model import CLASSES, tiny_model
from twincar_edge.cores import usable_cores
from twincar_edge.errors import InputError, MissingExtraError, ModelError, TwincarError
from twincar_edge.files import sha256
from twincar_edge.machine import this_machine
from twincar_edge.manifest import METADATA_KEY, QuantizationRecord, read_manifest
from twincar_edge.runtime.inference import providers
from twincar_edge.runtime.inference.session import MOST_THREADS, open_engine, open_session


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.onnx")


def change_manifest(path: Path, **changes: object) -> Path:
    """Rewrite the manifest of a model without touching its graph."""
    graph = onnx.load(str(path))
    manifest = read_manifest(path).model_copy(update=changes)
    helper.set_model_props(graph, {METADATA_KEY: manifest.to_json()})
    onnx.save(graph, str(path))
    return path


def test_a_session_runs_any_batch_and_names_its_file(model: Path) -> None:
    session = open_session(model, ep="cpu", threads=1)
    batch = np.zeros((3, 32, 32, 3), np.uint8)
    batch[1, :, :, 0] = 255
    logits = session.run(batch)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, [[0, 0, 0], [20, 0, 0], [0, 0, 0]])
    assert session.run(batch[:0]).shape == (0, 3)
    assert (session.ep, session.threads, session.sha256) == ("cpu", 1, sha256(model))
    assert session.manifest.classes == CLASSES


def test_threads_default_to_the_cores_that_the_process_may_use(model: Path) -> None:
    assert open_session(model, ep="cpu").threads == usable_cores()


def test_auto_takes_a_usable_provider(model: Path) -> None:
    assert open_session(model).ep in providers.usable_providers()


@pytest.mark.parametrize(
    ("ep", "says"),
    [
        ("cdua", "did you mean 'cuda'"),
        ("hexagon", "known: auto, cuda, openvino, cpu, tensorrt"),
    ],
)
def test_an_unknown_provider_is_answered_with_the_nearest_names(model: Path, ep: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_session(model, ep=ep)


@pytest.mark.parametrize("ep", [ep for ep in providers.PROVIDERS if ep not in providers.usable_providers()])
def test_a_provider_that_is_not_here_says_what_to_do(model: Path, ep: str) -> None:
    with pytest.raises(TwincarError, match=r"twincar-edge\[|--ep cpu"):
        open_session(model, ep=ep)


def test_a_provider_that_onnxruntime_silently_replaces_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic: CUDA asked for, CPU given. Here a provider that attaches nothing stands for it."""
    fallen = providers.Provider("CUDAExecutionProvider", "gpu", lambda *_: None, lambda *_: None)
    monkeypatch.setitem(providers.PROVIDERS, "cuda", fallen)
    with pytest.raises(InputError, match="asked for cuda, ONNX Runtime silently took CPUExecutionProvider"):
        open_session(model, ep="cuda")


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
def test_only_providers_of_nvidia_gpus_load_what_its_wheels_brought_once_and_without_printing(
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


@pytest.mark.usefixtures("unregistered")
def test_openvino_is_taken_from_the_wheel_that_has_it_built_in() -> None:
    ort = Wheel(providers.OPENVINO)
    assert providers.PROVIDERS["openvino"].obstacle(ort, "openvino") is None  # type: ignore[arg-type]
    [(name, settings)] = attached("openvino", ort, threads=3)
    assert (name, settings["device_type"]) == (providers.OPENVINO, "CPU")
    config = json.loads(settings["load_config"])["CPU"]
    assert (config["INFERENCE_NUM_THREADS"], config["INFERENCE_PRECISION_HINT"]) == ("3", "f32")


@pytest.mark.usefixtures("unregistered")
def test_the_plugin_is_attached_by_its_device_even_where_onnxruntime_lists_it_once_registered(
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


def test_the_openvino_plugin_answers_as_the_cpu_provider(model: Path) -> None:
    if "openvino" not in providers.usable_providers():
        pytest.skip("the OpenVINO plugin is not installed, or this CPU is not Intel's")
    batch = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    session = open_session(model, ep="openvino", threads=1)
    assert session.ep == "openvino"
    np.testing.assert_allclose(session.run(batch), open_session(model, ep="cpu", threads=1).run(batch), rtol=1e-3)


def test_a_plugin_that_offers_no_device_names_the_wheel_that_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.util, "find_spec", lambda name: name)
    monkeypatch.setattr(providers, "_openvino_devices", lambda ort: [])
    obstacle = providers.PROVIDERS["openvino"].obstacle(Wheel(), "openvino")  # type: ignore[arg-type]
    assert isinstance(obstacle, InputError)
    assert "--ep cpu" in str(obstacle)
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
    ("code", "message"), [(None, "NVIDIA's driver is not here"), (100, r"finds no GPU \(cuInit: 100\)"), (0, None)]
)
def test_the_gpu_wheel_has_cuda_only_where_the_driver_finds_a_gpu(
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
        assert "--ep cpu" in str(obstacle)


def test_a_provider_that_cannot_be_attached_is_a_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA of the plain wheel: ONNX Runtime raises where the provider is added, not where the session is opened."""

    def attach(_ort: object, options: onnxruntime.SessionOptions, _threads: int) -> None:
        options.add_provider("CUDAExecutionProvider", {})

    broken = providers.Provider("CUDAExecutionProvider", "gpu", attach, lambda *_: None)
    monkeypatch.setitem(providers.PROVIDERS, "cuda", broken)
    with pytest.raises(InputError, match=r"cuda cannot be used: .*; run with --ep cpu, or mend the cuda install"):
        open_session(model, ep="cuda")


@pytest.mark.parametrize(
    ("version", "spinning", "allowed", "limited"),
    [
        ("1.32.0", False, "1", True),
        ("1.26.0", False, "1", True),
        ("1.25.1", False, "0", False),  # it would not know the limit, and spin on
        ("1.32.0", True, "1", False),
        ("1.25.1", True, "1", False),
    ],
)
def test_threads_spin_on_only_where_they_are_told_to(
    model: Path, monkeypatch: pytest.MonkeyPatch, version: str, spinning: bool, allowed: str, limited: bool
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    options = open_session(model, ep="cpu", threads=2, spinning=spinning).engine.session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == allowed
    try:
        limit_us: float = int(options.get_session_config_entry("session.intra_op.spin_duration_us"))
    except RuntimeError:  # ONNX Runtime's way to say that nothing was set
        limit_us = float("inf")
    assert (limit_us <= 1000) is limited


def spoil(path: Path, change: str) -> None:
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"this is a text, not a model" * 20,
            "cut off": data[: len(data) // 2],
            "an operator that does not exist": data.replace(b"MatMul", b"MatNil"),
        }[change]
    )


@pytest.mark.parametrize("change", ["empty", "text", "cut off", "an operator that does not exist"])
def test_a_corrupt_model_is_one_line(model: Path, change: str) -> None:
    spoil(model, change)
    with pytest.raises(ModelError) as failure:
        open_session(model, ep="cpu")
    assert str(model) in str(failure.value)
    assert "\n" not in str(failure.value)


def test_what_onnxruntime_says_of_a_damaged_name_is_told_though_it_is_no_text(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.write_bytes(model.read_bytes().replace(b"\x04Cast", b"\x04Ca\xffs", 1))
    with pytest.raises(ModelError, match=r"cannot be opened on cpu: .*Ca.s"):
        open_session(model, ep="cpu")
    assert capsys.readouterr().out == ""  # which is for answers


def test_an_input_whose_name_is_no_text_is_one_line(model: Path) -> None:
    model.write_bytes(model.read_bytes().replace(b"batch_nhwc", b"batch\xffnhwc"))
    with pytest.raises(ModelError, match="names that are no text"):
        open_session(model, ep="cpu")


@pytest.mark.parametrize("threads", [MOST_THREADS + 1, 2**31, 10**30])
def test_more_threads_than_any_machine_has_are_refused(model: Path, threads: int) -> None:
    with pytest.raises(InputError, match="threads are more than"):
        open_session(model, ep="cpu", threads=threads)


def test_a_pipe_is_no_engine_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(InputError, match="no such file"):
        open_engine(tmp_path / "pipe.onnx", ep="cpu")


def test_a_model_that_is_not_ours_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not exported by twincar-edge"):
        open_session(tiny_model(tmp_path / "foreign.onnx", metadata=False))
    with pytest.raises(ModelError, match="cannot read the model"):
        open_session(tmp_path / "absent.onnx")


def test_a_manifest_that_does_not_fit_the_graph_is_refused(model: Path) -> None:
    wider = read_manifest(model).preprocess.model_copy(update={"size_wh": (64, 32)})
    with pytest.raises(ModelError, match=r"its manifest says uint8 \[N, 32, 64, 3\]"):
        open_session(change_manifest(model, preprocess=wider))


def test_a_manifest_with_another_class_count_is_refused(model: Path) -> None:
    with pytest.raises(ModelError, match="its manifest names 2 classes"):
        open_session(change_manifest(model, classes=CLASSES[:2]))


def test_logits_that_are_not_finite_never_become_an_answer(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    graph = onnx.load(str(model))
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name == "weights")
    weights.raw_data = np.full((3, 3), np.nan, np.float32).tobytes()
    onnx.save(graph, str(model))
    session = open_session(model, ep="cpu")
    with pytest.raises(ModelError, match="not finite"):
        session.run(np.ones((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("installed", "error", "says"),
    [
        ((), MissingExtraError, r"pip install 'twincar-edge\[cpu\]'"),
        (("onnxruntime", "onnxruntime-gpu"), InputError, "pip uninstall onnxruntime onnxruntime-gpu"),
    ],
)
def test_no_onnxruntime_and_two_of_them_each_say_so(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], error: type[TwincarError], says: str
) -> None:
    def distribution(name: str) -> object:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return object()

    def absent(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(providers.metadata, "distribution", distribution)
    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(error, match=says):
        providers.load_onnxruntime()


def full_range_int8_model(path: Path) -> Path:
    """Write an INT8 model whose weights, all 127, overflow 16 bits in pairs when the picture is white."""
    pixels, classes = 8 * 8 * 3, 3
    quantized = numpy_helper.from_array(np.full((pixels, classes), 127, np.int8), "quantized")
    one, byte, zero = (
        numpy_helper.from_array(value, name)
        for value, name in ((np.float32(1), "one"), (np.uint8(0), "byte"), (np.int8(0), "zero"))
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["batch_nhwc"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("QuantizeLinear", ["flat", "one", "byte"], ["levels"]),
            helper.make_node("DequantizeLinear", ["levels", "one", "byte"], ["activations"]),
            helper.make_node("DequantizeLinear", ["quantized", "one", "zero"], ["weights"]),
            helper.make_node("MatMul", ["activations", "weights"], ["logits"]),
        ],
        "white",
        [helper.make_tensor_value_info("batch_nhwc", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [quantized, one, byte, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    tiny = read_manifest(tiny_model(path.with_suffix(".tiny.onnx"), size_wh=(8, 8)))
    record = QuantizationRecord(
        activations="uint8", weights="int8", per_channel=True, reduce_range=False, calibration="none",
        calibration_images=1,
    )  # fmt: skip
    manifest = tiny.model_copy(update={"precision": "int8", "quantization": record})
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, str(path))
    return path


def test_full_range_int8_is_computed_exactly_on_every_cpu(tmp_path: Path) -> None:
    """On a CPU without VNNI the fast kernels give half of this; the manifest says that they must not be used."""
    session = open_session(full_range_int8_model(tmp_path / "full.onnx"), ep="cpu", threads=1)
    logits = session.run(np.full((1, 8, 8, 3), 255, np.uint8))
    np.testing.assert_array_equal(logits, np.full((1, 3), 255 * 127 * 8 * 8 * 3, np.float32))


@pytest.mark.parametrize(
    ("reduce_range", "flags", "exact"),
    [
        (False, ("avx2",), True),
        (False, (), True),  # of a CPU that nothing is known of, the worst is assumed
        (False, ("avx2", "avx512_vnni"), False),
        (True, ("avx2",), False),
    ],
)
def test_exact_kernels_which_are_slow_are_asked_for_only_where_the_fast_ones_clip(
    model: Path, monkeypatch: pytest.MonkeyPatch, reduce_range: bool, flags: tuple[str, ...], exact: bool
) -> None:
    record = QuantizationRecord(
        activations="uint8",
        weights="int8",
        per_channel=True,
        reduce_range=reduce_range,
        calibration="minmax",
        calibration_images=1,
    )
    change_manifest(model, precision="int8", quantization=record)
    box = this_machine().model_copy(update={"flags": flags})
    monkeypatch.setattr("twincar_edge.runtime.inference.session.this_machine", lambda: box)
    options = open_session(model, ep="cpu", threads=1).engine.session.get_session_options()
    try:
        asked = options.get_session_config_entry("session.x64quantprecision") == "1"
    except RuntimeError:  # ONNX Runtime's way to say that nothing was set
        asked = False
    assert asked is exact


def test_onnx_runtime_tells_nobody_of_the_models_that_it_opens(model: Path, tmp_path: Path) -> None:
    """It keeps a device's id and what it wants to send in the user's cache."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom twincar_edge.runtime.inference.session import open_session\n"
        "open_session(Path(sys.argv[1]), ep='cpu')\n"
    )
    silent = ("ORT_DISABLE_TELEMETRY", "CI", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in silent}
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-c", program, str(model)], check=True, env={**environment, "HOME": str(home)})
    assert not list(home.rglob("*"))
