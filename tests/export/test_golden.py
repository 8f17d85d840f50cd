"""Golden inputs are small and quick to check, allow harmless differences between machines and detect harmful ones."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.support.tiny_model import CLASSES, digested, tiny_model, with_golden, with_manifest
from twincar_edge.bundled import bundled
from twincar_edge.errors import ModelError
from twincar_edge.export.golden import LABELS, MAX_PIXELS, golden_images, make_golden
from twincar_edge.golden import GOLDEN_KEY, Golden, parse_golden, read_golden, sample_pixels
from twincar_edge.manifest import METADATA_KEY, read_manifest
from twincar_edge.onnx_metadata import read_metadata
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.runtime.inference.golden_check import LOGIT_LIMITS, GoldenCheck, check_golden, require_golden
from twincar_edge.runtime.inference.session import ModelSession, open_session

BUNDLED = ("lite0-cars196", "twins")


@pytest.fixture(scope="module", params=BUNDLED)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled INT8 model with golden inputs made on this machine."""
    name = f"{request.param}.onnx"
    return with_golden(bundled(name), tmp_path_factory.mktemp("real") / name)


def run_check(path: Path) -> GoldenCheck:
    golden = read_golden(path)
    assert golden is not None
    return check_golden(open_session(path, ep="cpu", threads=1), golden)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_models_pass_the_check_of_their_own_golden_inputs(name: str) -> None:
    assert run_check(bundled(f"{name}.onnx")).passed


# --- the document ---


def test_golden_inputs_round_trip(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.onnx", golden=True)
    session = open_session(path, ep="cpu", threads=1)
    made, read = make_golden(session.run, session.manifest.preprocess), read_golden(path)
    assert read is not None
    for one, other in zip(made.images_bgr, read.images_bgr, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(made.pixels, read.pixels)
    np.testing.assert_allclose(made.logits, read.logits, rtol=1e-5, atol=1e-5)


def test_a_file_without_golden_inputs_has_none(tmp_path: Path) -> None:
    assert read_golden(tiny_model(tmp_path / "tiny.onnx")) is None


def document_with(**changes: object) -> str:
    images = golden_images((32, 32))
    pixels = sample_pixels(prepare_batch(images, Preprocess(size_wh=(32, 32))))
    golden = Golden(images, pixels, np.ones((len(images), 3), np.float32))
    return json.dumps(json.loads(golden.to_json()) | changes)


def png(width: int, height: int) -> str:
    return base64.b64encode(cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()).decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not valid"),
        (document_with(schema_version=2), "not valid, at schema_version"),
        (document_with(images_png=[]), "not valid, at images_png"),
        (document_with(images_png=["%%%"] * 3), "cannot be read"),
        (document_with(images_png=[base64.b64encode(b"no picture").decode()] * 3), "cannot be read"),
        (document_with(images_png=[png(1500, 1000)] * 3), r"1500x1000, more than 1 megapixels"),
        (document_with(pixels="A" * 9_000_000), "larger than 8 MiB"),
        (document_with(pixels="%%%"), "cannot be read"),
        (document_with(pixels=base64.b64encode(bytes(12)).decode()), "do not fit their pixels"),
        (document_with(logits=[[1.0]] * 2), "do not fit their logits"),
        (document_with(logits=[[1e308]] * 3), "out of range"),
        (document_with(logits=[[1.0], [1.0], [1.0, 2.0]]), "do not fit their logits"),
        (document_with(logits=[[], [], []]), "not valid, at logits"),
    ],
)
def test_damaged_golden_inputs_are_a_one_line_error(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        parse_golden(text, "car.onnx")
    assert str(caught.value).startswith("car.onnx has golden inputs")
    assert "\n" not in str(caught.value)


# --- the pictures ---


@pytest.mark.parametrize("size_wh", [(8, 8), (32, 32), (160, 160), (224, 224), (320, 192), (512, 512)])
def test_the_pictures_are_larger_and_smaller_than_the_input_and_of_different_shapes(size_wh: tuple[int, int]) -> None:
    images = golden_images(size_wh)
    assert len(images) == len(LABELS)
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    assert size_wh not in sizes
    assert any(width > size_wh[0] for width, _ in sizes)
    if min(size_wh) > 64:  # cars need 48 pixels or more
        assert any(width < size_wh[0] and height < size_wh[1] for width, height in sizes)
        assert any(height > size_wh[1] for _, height in sizes) or size_wh[0] > 300
        assert sum(width * height for width, height in sizes) <= MAX_PIXELS * 1.02
    for one, other in zip(images, golden_images(size_wh), strict=True):
        np.testing.assert_array_equal(one, other)


def test_golden_inputs_take_less_than_300_kilobytes(real: Path) -> None:
    assert 10_000 < len(read_metadata(real)[GOLDEN_KEY]) < 300_000


def test_reading_and_checking_take_less_than_a_tenth_of_a_second_of_cpu_time(real: Path) -> None:
    session = open_session(real, ep="cpu", threads=1)
    costs = []
    for _ in range(3):
        started = time.thread_time()  # CPU time of this thread, which does all the work
        require_golden(session)
        costs.append(time.thread_time() - started)
    assert min(costs) < 0.1


# --- harmless differences pass ---

Variant = Callable[[Path], Any]


def variant(level: Any = None, threads: int = 1, exact: bool = False, one_by_one: bool = False) -> Variant:
    """Return a function that opens a file as another machine or version might run it."""

    def open_variant(path: Path) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if level is not None:
            options.graph_optimization_level = level
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        session = ort.InferenceSession(path.read_bytes(), options, disabled_optimizers=["WeightBiasQuantization"])
        return _OneByOne(session) if one_by_one else session

    return open_variant


class _OneByOne:
    """A session that runs the pictures of a batch one at a time."""

    def __init__(self, session: Any) -> None:
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self._session = session

    def run(self, outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
        ((name, batch),) = feeds.items()
        rows = [self._session.run(outputs, {name: batch[i : i + 1]}) for i in range(len(batch))]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


HARMLESS: dict[str, Variant] = {
    "as at export": variant(),
    "two threads": variant(threads=2),
    "exact INT8 kernels": variant(exact=True),
    "one picture at a time": variant(one_by_one=True),
    "less graph optimization": variant(ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    "basic graph optimization": variant(ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    "no graph optimization": variant(ort.GraphOptimizationLevel.ORT_DISABLE_ALL),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_differences_between_machines_pass(real: Path, what: str) -> None:
    golden = read_golden(real)
    assert golden is not None
    opened = open_session(real, ep="cpu", threads=1)
    session = replace(opened, engine=replace(opened.engine, session=HARMLESS[what](real)))
    result = check_golden(session, golden)
    assert result.passed, result.faults
    assert result.pixel_difference == 0
    assert result.logit_difference < 0.1  # leaves a margin for machines that cannot be tested here


# --- harmful changes fail ---


def another_resize(**changes: object) -> Callable[[onnx.ModelProto], None]:
    """Change the preprocessing in the manifest, so that pictures are prepared differently for the same graph."""

    def change(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        manifest = json.loads(entry.value)
        manifest["preprocess"] |= changes
        entry.value = json.dumps(manifest)

    return change


def another_mean(model: onnx.ModelProto) -> None:
    """Normalize with ImageNet's mean instead of the checkpoint's; keep the standard deviation."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    scale = numpy_helper.to_array(tensors["scale"])
    mean = np.array(Preprocess().mean, np.float32).reshape(scale.shape)
    tensors["shift"].CopyFrom(numpy_helper.from_array(-mean * 255 * scale, "shift"))


def four_bits(model: onnx.ModelProto) -> None:
    """Round all INT8 weights to 4 bits."""
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight_quantized"):
            weights = numpy_helper.to_array(tensor)
            coarse = np.clip(np.round(weights / 16.0) * 16, -128, 127).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))


def one_scale_per_layer(model: onnx.ModelProto) -> None:
    """Quantize the weights again with one scale per layer."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or not node.input[0].endswith("weight_quantized"):
            continue
        weights, scale = (numpy_helper.to_array(tensors[name]) for name in node.input[:2])
        axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
        values = weights * np.expand_dims(scale, [place for place in range(weights.ndim) if place != axis])
        one = np.abs(values).max() / 127
        again = np.round(values / one).astype(np.int8)
        tensors[node.input[0]].CopyFrom(numpy_helper.from_array(again, node.input[0]))
        tensors[node.input[1]].CopyFrom(numpy_helper.from_array(np.full_like(scale, one), node.input[1]))


def outputs_off_by_one(model: onnx.ModelProto) -> None:
    """Give each class the logit of the next class."""
    (width,) = (dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:])
    for node in model.graph.node:
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
    order = np.roll(np.arange(width), -1).astype(np.int64)
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["before", "order"], ["logits"], axis=1))


Sabotage = tuple[Callable[[onnx.ModelProto], None], tuple[str, ...]]
PIXELS, LOGITS = ("the model's input is off by",), ("logits are off by",)
OUTPUTS = (*LOGITS, "embeddings are off by")

# Changes to the file or the box, each with the parts of the check that may detect it: one of them must.
SABOTAGES: dict[str, Sabotage] = {
    "linear interpolation for area": (another_resize(interpolation="linear"), PIXELS),
    "cubic interpolation for area": (another_resize(interpolation="cubic"), PIXELS),
    "letterbox for squash": (another_resize(resize="letterbox"), PIXELS),
    "center crop for squash": (another_resize(resize="center_crop"), PIXELS),
    "red and blue swapped": (another_resize(colour="bgr"), PIXELS),  # the spelling in files
    "another mean in the graph": (another_mean, LOGITS),
    "weights rounded to 4 bits": (four_bits, LOGITS),
    "one weight scale per layer": (one_scale_per_layer, OUTPUTS),
    "classes off by one": (outputs_off_by_one, LOGITS),
}


def sabotage(source: Path, path: Path, what: str) -> Path:
    """Write a copy of a model file with one of the changes."""
    model = onnx.load(str(source))
    SABOTAGES[what][0](model)
    path.write_bytes(digested(model))
    return path


@pytest.mark.parametrize("what", SABOTAGES)
def test_harmful_changes_do_not_pass(real: Path, tmp_path: Path, what: str) -> None:
    result = run_check(sabotage(real, tmp_path / real.name, what))
    assert not result.passed
    # Farther from the limit than rounding reaches: harmless differences are at most about half of it.
    ratios = (
        result.pixel_difference / result.pixel_limit,
        result.logit_difference / result.logit_limit,
        0.0 if result.embedding_difference is None else result.embedding_difference / (result.embedding_limit or 1.0),
    )
    ratio = dict(zip((*PIXELS, *OUTPUTS), ratios, strict=True))
    part = max(SABOTAGES[what][1], key=ratio.__getitem__)
    assert any(part in fault for fault in result.faults), result.faults
    assert ratio[part] > 1.4


@pytest.mark.parametrize(("precision", "off", "passes"), [("fp32", 0.004, True), ("fp32", 0.03, False)])
def test_fp32_logits_may_differ_by_a_hundredth(tmp_path: Path, precision: str, off: float, passes: bool) -> None:
    """FP16 and TF32 arithmetic change the bundled FP32 model's logits by 0.004, BF16 by 0.03 to 0.05."""
    path = tiny_model(tmp_path / "tiny.onnx", golden=True)
    golden = read_golden(path)
    assert golden is not None
    session = open_session(path, ep="cpu", threads=1)
    moved = golden.logits + np.float32(off * np.abs(golden.logits).max())
    assert check_golden(session, replace(golden, logits=moved)).passed is passes


def test_coarser_precisions_have_wider_limits() -> None:
    assert LOGIT_LIMITS["fp32"] < LOGIT_LIMITS["fp16"] < LOGIT_LIMITS["int8"]


def test_golden_inputs_for_other_classes_are_refused(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.onnx", golden=True)
    golden = read_golden(path)
    session = open_session(tiny_model(tmp_path / "four.onnx", (*CLASSES, "Pollux Gray Van 2022")), ep="cpu", threads=1)
    assert golden is not None
    with pytest.raises(ModelError, match="golden inputs for 3 classes, its manifest names 4"):
        check_golden(session, golden)


# --- refusals ---


@pytest.fixture
def drifted(tmp_path: Path) -> ModelSession:
    path = tiny_model(tmp_path / "tiny.onnx", golden=True)
    swapped = read_manifest(path).preprocess.model_copy(update={"color": "bgr"})
    return open_session(with_manifest(path, path, preprocess=swapped), ep="cpu", threads=1)


def test_a_drifted_model_is_refused_in_one_line_with_the_difference(drifted: ModelSession) -> None:
    with pytest.raises(ModelError) as caught:
        require_golden(drifted)
    line = str(caught.value)
    for part in ("answers differently on cpu than at export", "levels of 256", "twincar-edge doctor"):
        assert part in line
    assert "`allow_drift=True`" in line
    assert "\n" not in line


def test_a_drifted_model_is_accepted_with_a_warning_if_allowed(
    drifted: ModelSession, caplog: pytest.LogCaptureFixture
) -> None:
    require_golden(drifted, allow_drift=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "using it anyway" in caplog.text


def test_a_file_without_golden_inputs_logs_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        require_golden(open_session(tiny_model(tmp_path / "tiny.onnx"), ep="cpu", threads=1))
    assert "has no golden inputs" in caplog.text


def test_the_metadata_key_is_that_of_files_in_use() -> None:
    assert GOLDEN_KEY == "twincar_edge.golden"
