"""Static INT8 quantization in QDQ format: pairs of QuantizeLinear and DequantizeLinear.

x86 CPUs without VNNI multiply U8 by S8 and add the products of two neighbors in 16 bits, which saturates: the same file
gives other answers there (onnxruntime#5849, #14642). The usual remedy, 7-bit weights, costs accuracy on all CPUs.
`weight_ranges` instead gives each output channel the largest range in which no two neighbors can overflow. That is 6.7
bits and a sign on average, compared with 6 for 7-bit weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from twincar_edge.errors import InputError, ModelError, Parameter, nearest
from twincar_edge.export.graph import check, strip
from twincar_edge.export.int8.activations import Range
from twincar_edge.export.int8.config import Int8Config

# Operators with weights that gain from INT8, and operators that are fused with a preceding one.
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mul", "Add"})
_MONOTONIC = frozenset({"Relu", "Clip"})  # these commute with a maximum
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


def prepare(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Prepare an FP32 graph of `to_onnx` for quantization: fold constants, and infer the shapes of all tensors."""
    with tempfile.TemporaryDirectory(prefix="twincar-int8-") as folder:
        source, prepared = Path(folder) / "fp32.onnx", Path(folder) / "prepared.onnx"
        onnx.save(graph, source)
        # Symbolic shape inference is for transformers with dynamic inner shapes; here only the batch size is dynamic.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        return onnx.load(prepared)


def quantize(prepared: onnx.ModelProto, ranges: Mapping[str, Range], config: Int8Config) -> onnx.ModelProto:
    """Return the INT8 form of a graph.

    Args:
        prepared: the graph from `prepare`.
        ranges: the lowest and highest value of each float tensor, by name.
        config: the settings.

    Raises:
        InputError: `config.float_nodes` contains weights that the graph does not have.
        ModelError: nothing in the graph can be quantized.
    """
    in_float = float_prefix(prepared.graph, config.float_layers)
    in_float += [name for weight in config.float_nodes for name in _layer(prepared.graph, weight)]
    return _quantize(prepared, ranges, config, exclude=in_float)


def quantize_layer(
    prepared: onnx.ModelProto, ranges: Mapping[str, Range], config: Int8Config, weight: str
) -> onnx.ModelProto:
    """Return a graph in which only the layer with these weights is INT8, for measuring the harm of that layer."""
    return _quantize(prepared, ranges, config, only=_layer(prepared.graph, weight))


def quantized_layers(prepared: onnx.ModelProto, config: Int8Config) -> list[str]:
    """Return the names of the weights of all layers that `quantize` converts to INT8, from the input on."""
    in_float = set(float_prefix(prepared.graph, config.float_layers))
    arrays = {tensor.name for tensor in prepared.graph.initializer}
    return [
        node.input[1]
        for node in prepared.graph.node
        if node.op_type in _WEIGHTED
        and node.name not in in_float
        and node.input[1] in arrays
        and node.input[1] not in config.float_nodes
    ]


def _quantize(
    prepared: onnx.ModelProto,
    ranges: Mapping[str, Range],
    config: Int8Config,
    exclude: list[str] | None = None,
    only: list[str] | None = None,
) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(prepared)  # the quantizer works in place
    safe_ranges = config.reduce_range and config.per_channel and config.weights == "int8"
    excluded = set(exclude or [])
    move_pool_before_activation(ONNXModel(copied), excluded)
    quantizer = QDQQuantizer(
        copied,
        per_channel=config.per_channel,
        reduce_range=config.reduce_range and not safe_ranges,  # ONNX Runtime's own 7-bit weights
        weight_qType=_TYPES[config.weights],
        activation_qType=_TYPES[config.activations],
        tensors_range=_tensors_data(ranges),
        nodes_to_quantize=only or [],
        nodes_to_exclude=sorted(excluded),
        op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
        extra_options={
            "ActivationSymmetric": config.symmetric,
            "WeightSymmetric": config.weights == "int8",
            "QuantizeBias": not config.float_bias,
            "TensorQuantOverrides": _overrides(copied.graph, excluded) if safe_ranges else {},
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # the quantizer appends its nodes at the end
    result: onnx.ModelProto = quantizer.model.model
    strip(result)
    check(result, "the INT8 model")
    if not any(node.op_type == "QuantizeLinear" for node in result.graph.node):
        raise ModelError(
            "no layer of this architecture can be quantized to INT8: export with ", Parameter("int8", None)
        )
    return result


def _tensors_data(ranges: Mapping[str, Range]) -> TensorsData:
    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    return TensorsData(CalibrationMethod.MinMax, data)


def float_prefix(graph: onnx.GraphProto, layers: int) -> list[str]:
    """Return the nodes that stay in float: normalization, the first layers with weights, and nodes fused with them.

    Later layers cannot correct rounding errors there, and INT8 is not faster on three input channels. As a complete
    prefix of the graph, these nodes do run in float. Other excluded nodes may be quantized again by ONNX Runtime when
    it loads a file, unless an optimizer is disabled, as in `open_session`.
    """
    prefix: list[str] = []
    outputs: set[str] = set()
    weighted = 0
    for node in graph.node:
        if weighted == layers and not (node.op_type in _FUSED | {"MaxPool"} and node.input[0] in outputs):
            break
        prefix.append(node.name)
        outputs.update(node.output)
        weighted += node.op_type in _WEIGHTED
    return prefix if layers else []


def move_pool_before_activation(model: ONNXModel, in_float: Collection[str]) -> None:
    """Move a MaxPool that stays in float before its activation, in place. The logits do not change.

    When ONNX Runtime loads a file, it moves a QuantizeLinear before a MaxPool, and then pools the integers of the stem
    with code that took a quarter of ResNet50's time. It does not move one before an activation.

    Args:
        model: a graph from `prepare`.
        in_float: the names of the nodes that stay in float.
    """
    pools = [node for node in model.nodes() if node.op_type == "MaxPool" and node.name in in_float]
    pairs = [(pool, activation) for pool in pools if (activation := model.get_parent(pool, 0)) is not None]
    for pool, activation in pairs:
        only_user = len(model.get_children(activation)) == 1
        if activation.op_type not in _MONOTONIC or activation.name not in in_float or not only_user:
            continue
        between = pool.input[0]
        pool.input[0], activation.input[0] = activation.input[0], between
        activation.output[0], pool.output[0] = pool.output[0], between
        for known in [info for info in model.graph().value_info if info.name == between]:
            model.graph().value_info.remove(known)  # its shape has changed
    if pairs:
        model.topological_sort()


def _layer(graph: onnx.GraphProto, weight: str) -> list[str]:
    """Return the name of the node with these weights and, if any, of the activation directly after it.

    Raises:
        InputError: no layer has these weights.
    """
    layers = {node.input[1]: node for node in graph.node if node.op_type in _WEIGHTED}
    if weight not in layers:
        raise InputError(f"no layer has weights {weight!r}: {nearest(weight, tuple(layers))}")
    node = layers[weight]
    users = [other for other in graph.node if node.output[0] in other.input]
    follower = users[:1] if len(users) == 1 and users[0].op_type in _FUSED - {"Add", "Mul"} else []
    return [node.name, *(other.name for other in follower)]


def _overrides(graph: onnx.GraphProto, in_float: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return, by the name of the weights, the quantization range of each output channel."""
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    overrides = {}
    for node in graph.node:
        if node.op_type in _WEIGHTED and node.name not in in_float and node.input[1] in arrays:
            weights = numpy_helper.to_array(arrays[node.input[1]])
            axis = _output_axis(node)
            ranges = weight_ranges(np.moveaxis(weights, axis, 0), depthwise=_is_depthwise(node, weights.shape))
            overrides[node.input[1]] = [
                {"quant_type": QuantType.QInt8, "axis": axis, "symmetric": True, "rmin": -value, "rmax": value}
                for value in ranges
            ]
    return overrides


def weight_ranges(weights: NDArray[np.float32], depthwise: bool = False) -> NDArray[np.float32]:
    """Return for each output channel the smallest safe value that is quantized to 127, float32 [channels].

    A value is safe if the sum of two neighbors of the same sign is at most 127; rounding may make it 128, and 255 * 128
    still fits into 16 bits. Products of opposite signs cannot overflow. Neighbors are the inputs that the kernels of
    ONNX Runtime and oneDNN multiply together: consecutive inputs of a matrix product. For a convolution, these are
    neighboring input channels or, in channels-first layout, neighboring pixels.

    Args:
        weights: float32 [channels, inputs] or [channels, inputs, kH, kW].
        depthwise: the layer is a depthwise convolution, whose kernels accumulate in 32 bits and never saturate.
    """
    rows = weights.reshape(len(weights), -1)
    if depthwise:
        ranges = np.abs(rows).max(axis=1)
    else:
        ranges = _largest_pair(rows)
        if weights.ndim == 4:
            ranges = np.maximum(ranges, _largest_pair(weights.transpose(0, 2, 3, 1).reshape(rows.shape)))
    tiny = np.finfo(np.float32).tiny  # a channel of zeros needs a range too
    return np.asarray(np.maximum(ranges, tiny), np.float32)


def _largest_pair(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each row the largest absolute sum of two neighbors (0 and 1, 2 and 3, …) of the same sign."""
    even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    sums = [np.maximum(sign * even, 0).reshape(len(rows), -1, 2).sum(axis=2).max(axis=1) for sign in (1, -1)]
    return np.asarray(np.maximum(*sums), np.float32)


def _output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of the output channels in a node's weights."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and _attribute(node, "transB", 0) else 1


def _is_depthwise(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Return whether each group has one input and one output channel; other groups run as matrix products."""
    return node.op_type == "Conv" and shape[1] == 1 and shape[0] == _attribute(node, "group", 1) > 1


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)
