"""Static INT8 quantization: unsigned 8-bit activations, signed weights per channel, as QuantizeLinear pairs (QDQ).

x86 CPUs without VNNI multiply U8 by S8 and add the products of two neighbours into 16 bits, which overflow and are
clipped: the same file answers differently there (onnxruntime#5849, #14642). The usual remedy is 7-bit weights, which
costs accuracy on every CPU. `weight_ranges` gives each output channel as much of the 8 bits as no two neighbours can
overflow with; that is 6.7 bits and a sign on average, where 7-bit weights have 6.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from twincar_edge.errors import ModelError
from twincar_edge.export.config import Int8Config
from twincar_edge.export.graph import INPUT, check, strip

# What has weights and gains from INT8, and what may follow the last of those in float.
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_FOLLOWING = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mul", "Add"})
_METHODS = {"minmax": CalibrationMethod.MinMax}


def quantize(graph: onnx.ModelProto, batches: Iterable[NDArray[np.uint8]], config: Int8Config) -> onnx.ModelProto:
    """Return the INT8 form of a graph that `to_onnx` made.

    Args:
        graph: the FP32 graph.
        batches: training images as the model takes them, uint8 [N, H, W, 3]; read one batch at a time, so that memory
            does not grow with their number.
        config: the recipe.

    Raises:
        ModelError: nothing in the graph can be quantized.
    """
    # ONNX Runtime's quantizer speaks in files.
    with tempfile.TemporaryDirectory(prefix="twincar-int8-") as folder:
        source, prepared, quantized = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(graph, source)
        # The symbolic pass is for transformers with dynamic inner shapes; here only the batch is dynamic.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph
        quantize_static(
            prepared,
            quantized,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,  # one scale for all channels costs ten points of top-1
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[config.calibration],
            nodes_to_exclude=_float_prefix(nodes, config.float_layers),
            extra_options={
                "TensorQuantOverrides": _overrides(nodes, config.float_layers) if config.reduce_range else {}
            },
        )
        result: onnx.ModelProto = onnx.load(quantized)
    strip(result)
    check(result, "the INT8 model")
    if not any(node.op_type == "QuantizeLinear" for node in result.graph.node):
        raise ModelError("nothing in this architecture can be quantized to INT8: export it without --int8")
    return result


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives the calibration batches one by one."""

    def __init__(self, batches: Iterable[NDArray[np.uint8]]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch_nhwc = next(self._batches, None)
        return None if batch_nhwc is None else {INPUT: batch_nhwc}


def _float_prefix(graph: onnx.GraphProto, layers: int) -> list[str]:
    """Return the nodes that stay in float: mean and std, the first layers with weights, and what follows each of them.

    Nothing later can mend what is rounded there, and INT8 gains no time on three input channels. As a whole prefix of
    the graph they also run in float: other nodes that are left out, ONNX Runtime may quantize again as it loads a file.
    """
    prefix: list[str] = []
    outputs: set[str] = set()
    weighted = 0
    for node in graph.node:
        if weighted == layers and not (node.op_type in _FOLLOWING and node.input[0] in outputs):
            break
        prefix.append(node.name)
        outputs.update(node.output)
        weighted += node.op_type in _WEIGHTED
    return prefix if layers else []


def _overrides(graph: onnx.GraphProto, float_layers: int) -> dict[str, list[dict[str, Any]]]:
    """Return, by weight name, the range that each output channel's weights are quantized over."""
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    in_float = set(_float_prefix(graph, float_layers))
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
