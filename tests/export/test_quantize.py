"""INT8 graphs: which layers are INT8, which stay float, and that sums cannot overflow on any processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from pydantic import ValidationError

from tests.support.int8_toys import SIZE, batches, int8_of, small_graph
from twincar_edge.errors import InputError, ModelError
from twincar_edge.export import PRESETS, Int8Config
from twincar_edge.export.graph import to_onnx
from twincar_edge.export.int8.config import Int8Search
from twincar_edge.export.int8.quantize import (
    float_prefix,
    move_pool_before_activation,
    prepare,
    quantized_layers,
    weight_ranges,
)
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.model import CarClassifier


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return small_graph()


@pytest.fixture(scope="module")
def int8(graph: onnx.ModelProto) -> onnx.ModelProto:
    return int8_of(graph, batches(), Int8Config())


def weights(model: onnx.ModelProto) -> dict[str, NDArray[np.int8]]:
    """Return the weights by layer."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = ("stem", "depthwise", "grouped", "classifier")
    return {
        layer: array
        for layer in layers
        for name, array in arrays.items()
        if f"{layer}.weight" in name and array.ndim > 1
    }


def run(model: onnx.ModelProto, batch_nhwc: NDArray[np.uint8], **entries: str) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(key.replace("_", "."), value)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, disabled_optimizers=["WeightBiasQuantization"]
    )
    return session.run(None, {"batch_nhwc": batch_nhwc})[0]


def test_every_layer_after_the_stem_has_int8_weights_with_a_scale_per_channel(int8: onnx.ModelProto) -> None:
    found = weights(int8)
    assert {layer: array.dtype.name for layer, array in found.items()} == {
        "stem": "float32",
        "depthwise": "int8",
        "grouped": "int8",
        "classifier": "int8",
    }
    scales = {t.name: t.dims for t in int8.graph.initializer if t.name.endswith(".weight_scale")}
    assert sorted(tuple(dims) for dims in scales.values()) == [(4,), (8,), (8,)]


def test_activations_are_quantized_to_uint8(int8: onnx.ModelProto) -> None:
    zeros = {t.name: t.data_type for t in int8.graph.initializer}
    kinds = {zeros[node.input[2]] for node in int8.graph.node if node.op_type == "QuantizeLinear"}
    assert kinds == {onnx.TensorProto.UINT8}


def test_the_stem_stays_in_float(int8: onnx.ModelProto) -> None:
    kinds = [node.op_type for node in int8.graph.node if node.op_type != "DequantizeLinear"]
    assert kinds[: kinds.index("QuantizeLinear")] == ["Transpose", "Cast", "Mul", "Add", "Conv", "Relu"]


@pytest.mark.parametrize(("layers", "in_float"), [(0, set()), (2, {"stem", "depthwise"}), (9, None)])
def test_the_requested_number_of_layers_stays_in_float(
    graph: onnx.ModelProto, layers: int, in_float: set[str] | None
) -> None:
    config = Int8Config(float_layers=layers)
    if in_float is None:
        with pytest.raises(ModelError, match="no layer of this architecture can be quantized"):
            int8_of(graph, batches(), config)
        return
    found = weights(int8_of(graph, batches(), config))
    assert {layer for layer, array in found.items() if array.dtype == np.float32} == in_float
    assert config.record(4).float_layers == layers


def test_layers_that_are_float_in_the_file_run_in_float(int8: onnx.ModelProto) -> None:
    # Our sessions disable ONNX Runtime's optimizer WeightBiasQuantization, which quantizes more layers at load.
    batch_nhwc = next(batches(1, seed=5))
    options = onnxruntime.SessionOptions()
    with_optimizer = onnxruntime.InferenceSession(int8.SerializeToString(), options)
    np.testing.assert_array_equal(with_optimizer.run(None, {"batch_nhwc": batch_nhwc})[0], run(int8, batch_nhwc))


class Pooled(torch.nn.Module):
    """A stem like ResNet's (convolution, ReLU, max pooling) before a layer that becomes INT8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.classifier = torch.nn.Linear(8, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = torch.nn.functional.max_pool2d(torch.relu(self.stem(pixels)), 3, 2, 1)
        return self.classifier(torch.relu(self.body(pixels)).mean((2, 3)))


@pytest.fixture(scope="module")
def pooled() -> onnx.ModelProto:
    torch.manual_seed(0)
    model = CarClassifier("test_resnet", 4, Preprocess(size_wh=(SIZE, SIZE)))
    model.backbone = Pooled()
    return to_onnx(model)


def test_onnx_runtime_pools_a_stem_in_float(pooled: onnx.ModelProto, tmp_path: Path) -> None:
    """Otherwise it would quantize before the MaxPool, which is thirty times slower on integers."""
    int8 = int8_of(pooled, batches(), Int8Config())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(int8.SerializeToString(), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "QLinearConv" in kinds
    assert kinds.index("MaxPool") < kinds.index("QuantizeLinear")


def test_pooling_before_the_activation_does_not_change_the_logits(pooled: onnx.ModelProto) -> None:
    prepared = prepare(pooled)
    moved = prepare(pooled)
    move_pool_before_activation(ONNXModel(moved), float_prefix(prepared.graph, 1))
    kinds = [node.op_type for node in moved.graph.node]
    assert kinds.index("MaxPool") < kinds.index("Relu")
    onnx.checker.check_model(moved, full_check=True)
    batch_nhwc = next(batches(1, seed=5))
    np.testing.assert_array_equal(run(moved, batch_nhwc), run(prepared, batch_nhwc))


def test_pooling_after_an_int8_stem_is_not_moved(pooled: onnx.ModelProto) -> None:
    prepared = prepare(pooled)
    moved = prepare(pooled)
    move_pool_before_activation(ONNXModel(moved), float_prefix(prepared.graph, 0))
    assert moved == prepared


def pair_sums(array: NDArray[np.int8]) -> int:
    """Return the largest sum of two adjacent weights of one sign, in the orders in which kernels multiply them."""
    orders = [array.reshape(len(array), -1)]
    if array.ndim == 4:
        orders.append(array.transpose(0, 2, 3, 1).reshape(len(array), -1))
    largest = 0
    for rows in orders:
        even = np.pad(rows.astype(int), ((0, 0), (0, rows.shape[1] % 2))).reshape(len(array), -1, 2)
        largest = max(largest, np.maximum(even, 0).sum(-1).max(), np.maximum(-even, 0).sum(-1).max())
    return int(largest)


def test_no_two_adjacent_weights_can_overflow_16_bits(int8: onnx.ModelProto) -> None:
    for layer in ("grouped", "classifier"):
        assert pair_sums(weights(int8)[layer]) * 255 < 2**15, layer


def test_depthwise_weights_keep_8_bits(int8: onnx.ModelProto) -> None:
    assert np.abs(weights(int8)["depthwise"].astype(int)).max(axis=(1, 2, 3)).tolist() == [127] * 8


def test_without_reduced_range_every_channel_uses_8_bits(graph: onnx.ModelProto) -> None:
    full = weights(int8_of(graph, batches(), Int8Config(reduce_range=False)))
    for layer in ("depthwise", "grouped", "classifier"):
        assert np.abs(full[layer].astype(int)).reshape(len(full[layer]), -1).max(axis=1).min() == 127
    assert pair_sums(full["grouped"]) * 255 >= 2**15


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 5), (6, 4, 1, 1), (6, 3, 3, 3), (8, 5, 5, 5), (16, 64, 1, 1)])
def test_a_weight_range_is_the_smallest_that_cannot_overflow(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    real = rng.normal(0, 0.2, shape).astype(np.float32)
    ranges = weight_ranges(real)
    scale = (ranges / 127).reshape(-1, *[1] * (len(shape) - 1))
    rounded = np.round(real / scale)
    assert np.abs(rounded).max() <= 127
    assert pair_sums(rounded) <= 128
    assert pair_sums(np.round(real / (0.97 * scale))) > 127  # 3% smaller could overflow
    np.testing.assert_allclose(weight_ranges(real, depthwise=True), np.abs(real).reshape(shape[0], -1).max(axis=1))


def test_a_channel_of_zeros_has_a_positive_range() -> None:
    assert (weight_ranges(np.zeros((2, 4), np.float32)) > 0).all()


def test_reduced_range_gives_the_same_logits_with_saturating_and_exact_kernels(int8: onnx.ModelProto) -> None:
    # On a CPU without VNNI, session.x64quantprecision selects exact kernels instead of fast ones that may saturate.
    # On other CPUs both are the same, and this test is weaker.
    bright = np.full((2, SIZE, SIZE, 3), 255, np.uint8)
    for batch_nhwc in (bright, *batches(3, seed=7)):
        exact = run(int8, batch_nhwc, session_x64quantprecision="1")
        np.testing.assert_array_equal(run(int8, batch_nhwc), exact)


def test_int8_is_close_to_fp32_on_images_like_those_of_calibration(
    graph: onnx.ModelProto, int8: onnx.ModelProto
) -> None:
    batch_nhwc = next(batches(1, seed=3))
    expected = run(graph, batch_nhwc)
    np.testing.assert_allclose(run(int8, batch_nhwc), expected, atol=0.1 * np.abs(expected).max())


def test_calibration_reads_each_batch_once_in_order(graph: onnx.ModelProto) -> None:
    taken = []

    def counted() -> Iterator[NDArray[np.uint8]]:
        for number, batch_nhwc in enumerate(batches(6)):
            taken.append(number)
            yield batch_nhwc

    int8_of(graph, counted(), Int8Config())
    assert taken == [0, 1, 2, 3, 4, 5]


def test_every_calibration_image_widens_the_ranges(graph: onnx.ModelProto) -> None:
    dark = [np.full((1, SIZE, SIZE, 3), 10, np.uint8)]
    bright = [np.full((1, SIZE, SIZE, 3), 250, np.uint8)]

    def input_scale(images: list[NDArray[np.uint8]]) -> float:
        model = int8_of(graph, iter(images), Int8Config())
        first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        [scale] = [t for t in model.graph.initializer if t.name == first.input[1]]
        return float(numpy_helper.to_array(scale))

    both = input_scale(dark + bright)
    assert both > input_scale(dark)
    assert both == input_scale(bright) == input_scale(bright + dark)  # after a ReLU, the brightest image decides


def test_only_standard_operator_sets_are_declared(int8: onnx.ModelProto) -> None:
    assert [opset.domain for opset in int8.opset_import] == [""]
    assert not int8.metadata_props


def test_the_same_input_gives_the_same_file(graph: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    again = int8_of(graph, batches(), Int8Config())
    assert again.SerializeToString(deterministic=True) == int8.SerializeToString(deterministic=True)


def test_quantizing_does_not_change_the_fp32_graph(graph: onnx.ModelProto) -> None:
    before = graph.SerializeToString(deterministic=True)
    int8_of(graph, batches(1), Int8Config())
    assert graph.SerializeToString(deterministic=True) == before


def test_a_graph_without_weights_is_refused() -> None:
    model = CarClassifier("test_resnet", 3, Preprocess(size_wh=(SIZE, SIZE)))
    model.backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(ModelError, match="no layer of this architecture can be quantized"):
        int8_of(to_onnx(model), batches(1), Int8Config())


# --- Choices --------------------------------------------------------------------------------------------------------


def kinds(model: onnx.ModelProto) -> set[str]:
    """Return the integer types of the activations."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    found = {types[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return {onnx.TensorProto.DataType.Name(kind) for kind in found}


@pytest.mark.parametrize(
    ("target", "activations"),
    [("x86-avx2", "UINT8"), ("x86-vnni", "UINT8"), ("arm64", "INT8"), ("tensorrt", "INT8"), ("openvino", "UINT8")],
)
def test_every_preset_gives_a_graph_that_runs(graph: onnx.ModelProto, target: str, activations: str) -> None:
    model = int8_of(graph, batches(), PRESETS[target])
    assert kinds(model) == {activations}
    batch_nhwc = next(batches(1, seed=3))
    expected = run(graph, batch_nhwc)
    np.testing.assert_allclose(run(model, batch_nhwc), expected, atol=0.1 * np.abs(expected).max())
    assert PRESETS[target].record(4).target == target


def test_tensorrt_gets_symmetric_activations_and_float_biases(graph: onnx.ModelProto) -> None:
    model = int8_of(graph, batches(), PRESETS["tensorrt"])
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    zeros = [arrays[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert zeros and not any(zero.any() for zero in zeros)
    assert not any(array.dtype == np.int32 for array in arrays.values())


def test_per_tensor_weights_have_one_scale(graph: onnx.ModelProto) -> None:
    model = int8_of(graph, batches(), Int8Config(per_channel=False))
    scales = {t.name: t.dims for t in model.graph.initializer if t.name.endswith(".weight_scale")}
    assert scales and all(list(dims) in ([], [1]) for dims in scales.values())


def test_layers_named_by_their_weights_stay_in_float(graph: onnx.ModelProto) -> None:
    layers = quantized_layers(prepare(graph), Int8Config())
    grouped = next(name for name in layers if "grouped" in name)
    model = int8_of(graph, batches(), Int8Config(float_nodes=(grouped,)))
    assert {layer: array.dtype.name for layer, array in weights(model).items()} == {
        "stem": "float32",
        "depthwise": "int8",
        "grouped": "float32",
        "classifier": "int8",
    }


def test_an_unknown_layer_gets_a_suggestion(graph: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match=r"no layer has weights 'backbone.groupd.weight': did you mean '.*grouped"):
        int8_of(graph, batches(1), Int8Config(float_nodes=("backbone.groupd.weight",)))


@pytest.mark.parametrize(
    "choices",
    [
        {"activations": "int8", "weights": "uint8"},
        {"calibration": "guess"},
        {"percentile": 101},
        {"float_layers": -1},
        {"per_chanel": True},
    ],
)
def test_invalid_settings_are_rejected(choices: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Int8Config.model_validate(choices)
    with pytest.raises(InputError, match="invalid INT8 settings"):
        Int8Search(changes=choices).changed(Int8Config())
