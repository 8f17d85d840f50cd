"""Opening a model: exported models open on the requested provider; anything else is a one-line error."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.tiny_model import CLASSES, digested, tiny_model, undigested
from twincar_edge.cores import usable_cores
from twincar_edge.errors import InputError, MissingExtraError, ModelError, TwincarError
from twincar_edge.files import sha256
from twincar_edge.machine import this_machine
from twincar_edge.manifest import METADATA_KEY, QuantizationRecord, read_manifest
from twincar_edge.runtime.inference import providers
from twincar_edge.runtime.inference.engine import MAX_THREADS, open_engine
from twincar_edge.runtime.inference.session import open_session


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.onnx")


def change_manifest(path: Path, **changes: object) -> Path:
    """Rewrite the manifest of a model without touching its graph."""
    graph = onnx.load(str(path))
    manifest = read_manifest(path).model_copy(update=changes)
    helper.set_model_props(graph, {METADATA_KEY: manifest.to_json()})
    path.write_bytes(digested(graph))
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


def test_auto_chooses_a_usable_provider(model: Path) -> None:
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
def test_the_error_for_an_unavailable_provider_says_what_to_do(model: Path, ep: str) -> None:
    with pytest.raises(TwincarError, match=r"twincar-edge\[|`ep='cpu'`"):
        open_session(model, ep=ep)


def test_a_provider_that_onnxruntime_silently_replaces_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when ONNX Runtime replaces CUDA by CPU; here the provider attaches nothing."""
    fallen = providers.Provider("CUDAExecutionProvider", "gpu", lambda *_: None, lambda *_: None)
    monkeypatch.setitem(providers.PROVIDERS, "cuda", fallen)
    with pytest.raises(InputError, match="cuda was requested, but ONNX Runtime silently chose CPUExecutionProvider"):
        open_session(model, ep="cuda")


def test_a_provider_that_cannot_be_attached_is_a_one_line_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with CUDA in the plain wheel: ONNX Runtime raises when the provider is added, not when the session opens."""

    def attach(_ort: object, options: onnxruntime.SessionOptions, _threads: int) -> None:
        options.add_provider("CUDAExecutionProvider", {})

    broken = providers.Provider("CUDAExecutionProvider", "gpu", attach, lambda *_: None)
    monkeypatch.setitem(providers.PROVIDERS, "cuda", broken)
    with pytest.raises(InputError, match=r"cuda cannot be used: .*; repair its installation, or use `ep='cpu'`"):
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
def test_threads_spin_only_on_request(
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
def test_a_corrupt_model_is_a_one_line_error(model: Path, change: str) -> None:
    spoil(model, change)
    with pytest.raises(ModelError) as failure:
        open_session(model, ep="cpu")
    assert str(model) in str(failure.value)
    assert "\n" not in str(failure.value)


def test_an_onnxruntime_error_that_is_not_utf8_is_shown(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = undigested(onnx.load(str(model)))
    model.write_bytes(plain.replace(b"\x04Cast", b"\x04Ca\xffs", 1))
    with pytest.raises(ModelError, match=r"cannot be opened on cpu: .*Ca.s"):
        open_session(model, ep="cpu")
    assert capsys.readouterr().out == ""  # which is for answers


def test_an_input_name_that_is_not_utf8_is_a_one_line_error(model: Path) -> None:
    plain = undigested(onnx.load(str(model)))
    model.write_bytes(plain.replace(b"batch_nhwc", b"batch\xffnhwc"))
    with pytest.raises(ModelError, match="is not UTF-8"):
        open_session(model, ep="cpu")


@pytest.mark.parametrize("threads", [MAX_THREADS + 1, 2**31, 10**30])
def test_too_many_threads_are_refused(model: Path, threads: int) -> None:
    with pytest.raises(InputError, match="threads are too many: use at most"):
        open_session(model, ep="cpu", threads=threads)


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(InputError, match="no such file"):
        open_engine(tmp_path / "pipe.onnx", ep="cpu")


def test_a_foreign_or_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not exported by twincar-edge"):
        open_session(tiny_model(tmp_path / "foreign.onnx", metadata=False))
    with pytest.raises(ModelError, match="cannot read the model"):
        open_session(tmp_path / "absent.onnx")


def test_a_manifest_that_does_not_fit_the_graph_is_refused(model: Path) -> None:
    wider = read_manifest(model).preprocess.model_copy(update={"size_wh": (64, 32)})
    with pytest.raises(ModelError, match=r"its manifest requires uint8 \[N, 32, 64, 3\]"):
        open_session(change_manifest(model, preprocess=wider))


def test_a_manifest_with_another_class_count_is_refused(model: Path) -> None:
    with pytest.raises(ModelError, match="its manifest names 2 classes"):
        open_session(change_manifest(model, classes=CLASSES[:2]))


def test_logits_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    graph = onnx.load(str(model))
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name == "weights")
    weights.raw_data = np.full((3, 3), np.nan, np.float32).tobytes()
    model.write_bytes(digested(graph))
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
def test_a_missing_or_duplicate_onnxruntime_is_reported(
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
    path.write_bytes(digested(model))
    return path


def test_full_range_int8_is_computed_exactly_on_every_cpu(tmp_path: Path) -> None:
    """Without VNNI the fast kernels return half of this, so the manifest forbids them."""
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
def test_slow_exact_kernels_are_used_only_where_fast_ones_overflow(
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


def test_onnx_runtime_sends_no_telemetry_about_models(model: Path, tmp_path: Path) -> None:
    """It would store a device id and the events to send in the user's cache."""
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
