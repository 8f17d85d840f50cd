"""Static INT8 quantization, as pairs of QuantizeLinear and DequantizeLinear (QDQ).

x86 CPUs without VNNI multiply U8 by S8 and add the products of two neighbours into 16 bits, which overflow and are
clipped: the same file answers differently there (onnxruntime#5849, #14642). The usual remedy is 7-bit weights, which
costs accuracy on every CPU. `weight_ranges` gives each output channel as much of the 8 bits as no two neighbours can
overflow with; that is 6.7 bits and a sign on average, where 7-bit weights have 6.
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

# What has weights and gains from INT8, and what may follow such a node and is fused with it.
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_FOLLOWING = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mul", "Add"})
_RISING = frozenset({"Relu", "Clip"})  # a maximum may be taken before these as well as after them
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


def prepare(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return an FP32 graph of `to_onnx` as quantization wants it: constants folded, every tensor's shape known."""
    with tempfile.TemporaryDirectory(prefix="twincar-int8-") as folder:
        source, prepared = Path(folder) / "fp32.onnx", Path(folder) / "prepared.onnx"
        onnx.save(graph, source)
        # The symbolic pass is for transformers with dynamic inner shapes; here only the batch is dynamic.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        return onnx.load(prepared)


def quantize(prepared: onnx.ModelProto, ranges: Mapping[str, Range], config: Int8Config) -> onnx.ModelProto:
    """Return the INT8 form of a graph.

    Args:
        prepared: what `prepare` gave.
        ranges: the lowest and highest value of each float tensor, by name.
        config: the choices.

    Raises:
        InputError: `config.float_nodes` names weights that the graph does not have.
        ModelError: nothing in the graph can be quantized.
    """
    in_float = float_prefix(prepared.graph, config.float_layers)
    in_float += [name for weight in config.float_nodes for name in _layer(prepared.graph, weight)]
    return _quantize(prepared, ranges, config, exclude=in_float)


def quantize_layer(
    prepared: onnx.ModelProto, ranges: Mapping[str, Range], config: Int8Config, weight: str
) -> onnx.ModelProto:
    """Return a graph in which one layer alone is INT8, named by its weights: how the answers change is its harm."""
    return _quantize(prepared, ranges, config, only=_layer(prepared.graph, weight))


def quantized_layers(prepared: onnx.ModelProto, config: Int8Config) -> list[str]:
    """Return the weights' names of all layers that `quantize` would make INT8, from the input on."""
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
    safe = config.reduce_range and config.per_channel and config.weights == "int8"
    left_out = set(exclude or [])
    pool_first(ONNXModel(copied), left_out)
    quantizer = QDQQuantizer(
        copied,
        per_channel=config.per_channel,
        reduce_range=config.reduce_range and not safe,  # ONNX Runtime's own way, 7-bit weights, where ours has no place
        weight_qType=_TYPES[config.weights],
        activation_qType=_TYPES[config.activations],
        tensors_range=_tensors_data(ranges),
        nodes_to_quantize=only or [],
        nodes_to_exclude=sorted(left_out),
        op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
        extra_options={
            "ActivationSymmetric": config.symmetric,
            "WeightSymmetric": config.weights == "int8",
            "QuantizeBias": not config.float_bias,
            "TensorQuantOverrides": _overrides(copied.graph, left_out) if safe else {},
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # the pairs were put at the end
    result: onnx.ModelProto = quantizer.model.model
    strip(result)
    check(result, "the INT8 model")
    if not any(node.op_type == "QuantizeLinear" for node in result.graph.node):
        raise ModelError(
            "no layer of this architecture can be quantized to INT8: export it with ", Parameter("int8", None)
        )
    return result


def _tensors_data(ranges: Mapping[str, Range]) -> TensorsData:
    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    return TensorsData(CalibrationMethod.MinMax, data)


def float_prefix(graph: onnx.GraphProto, layers: int) -> list[str]:
    """Return the nodes that stay in float: mean and std, the first layers with weights, and what follows each of them.

    Nothing later can mend what is rounded there, and INT8 gains no time on three input channels. As a whole prefix of
    the graph they also run in float: other nodes that are left out, ONNX Runtime may quantize again as it loads a file,
    unless it is told not to (`open_session` does).
    """
    prefix: list[str] = []
    outputs: set[str] = set()
    weighted = 0
    for node in graph.node:
        if weighted == layers and not (node.op_type in _FOLLOWING | {"MaxPool"} and node.input[0] in outputs):
            break
        prefix.append(node.name)
        outputs.update(node.output)
        weighted += node.op_type in _WEIGHTED
    return prefix if layers else []


def pool_first(model: ONNXModel, in_float: Collection[str]) -> None:
    """Put a MaxPool that stays in float before its activation, in place; the answers are the same.

    ONNX Runtime moves a QuantizeLinear up through a MaxPool as it loads a file, and pools the integers of a stem with
    code that took a quarter of ResNet50's time. It does not move one through an activation.

    Args:
        model: a graph that `prepare` gave.
        in_float: the names of the nodes that stay in float.
    """
    pools = [node for node in model.nodes() if node.op_type == "MaxPool" and node.name in in_float]
    pairs = [(pool, activation) for pool in pools if (activation := model.get_parent(pool, 0)) is not None]
    for pool, activation in pairs:
        alone = len(model.get_children(activation)) == 1
        if activation.op_type not in _RISING or activation.name not in in_float or not alone:
            continue
        between = pool.input[0]
        pool.input[0], activation.input[0] = activation.input[0], between
        activation.output[0], pool.output[0] = pool.output[0], between
        for known in [info for info in model.graph().value_info if info.name == between]:
            model.graph().value_info.remove(known)  # its shape is another now
    if pairs:
        model.topological_sort()


def _layer(graph: onnx.GraphProto, weight: str) -> list[str]:
    """Return the names of the node that has these weights and of an activation that follows it at once.

    Raises:
        InputError: no layer has them.
    """
    layers = {node.input[1]: node for node in graph.node if node.op_type in _WEIGHTED}
    if weight not in layers:
        raise InputError(f"no layer has weights {weight!r}: {nearest(weight, tuple(layers))}")
    node = layers[weight]
    users = [other for other in graph.node if node.output[0] in other.input]
    follower = users[:1] if len(users) == 1 and users[0].op_type in _FOLLOWING - {"Add", "Mul"} else []
    return [node.name, *(other.name for other in follower)]


def _overrides(graph: onnx.GraphProto, in_float: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return, by weight name, the range that each output channel's weights are quantized over."""
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
    """Return for each output channel the value that becomes 127, float32 [channels]: the smallest that is safe.

    Safe is what keeps two neighbours of one sign at 127 together: rounding may make it 128, and 255 * 128 still fits
    into 16 bits. Products of opposite signs cannot overflow. Neighbours are what the kernels of ONNX Runtime and oneDNN
    multiply together: consecutive inputs of a matrix product, which for a convolution are neighbouring input channels
    or, where it runs channels first, neighbouring pixels.

    Args:
        weights: float32 [channels, inputs] or [channels, inputs, kH, kW].
        depthwise: the layer is a depthwise convolution, whose kernels add into 32 bits and clip nothing.
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
    """Return for each row the largest absolute sum of two neighbours (0 and 1, 2 and 3, …) of one sign."""
    even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    sums = [np.maximum(sign * even, 0).reshape(len(rows), -1, 2).sum(axis=2).max(axis=1) for sign in (1, -1)]
    return np.asarray(np.maximum(*sums), np.float32)


def _output_axis(node: onnx.NodeProto) -> int:
    """Return which axis of a node's weights counts its output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and _attribute(node, "transB", 0) else 1


def _is_depthwise(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Say whether each group is one channel in and one out; other groups run as matrix products."""
    return node.op_type == "Conv" and shape[1] == 1 and shape[0] == _attribute(node, "group", 1) > 1


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)
