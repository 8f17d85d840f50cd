"""Static INT8 quantization: unsigned 8-bit activations, signed weights per channel, as QuantizeLinear pairs (QDQ).

Weights have 7 bits where 8 would make the answer depend on the processor. x86 CPUs without VNNI multiply U8 by S8 in
pairs and add each pair into 16 bits, which overflow and are clipped: the same file answers differently there
(onnxruntime#5849, #14642). With weights within ±64 no pair can overflow, 255 * 64 * 2 < 2**15. Depthwise convolutions
run in kernels of their own that do not clip, and suffer most from coarse weights: they keep 8 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from twincar_edge.errors import ModelError
from twincar_edge.export.config import Int8Config
from twincar_edge.export.graph import INPUT, check, strip

# What has weights and gains from INT8. Whatever stands before the first of them is the normalization.
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
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
            per_channel=config.per_channel,
            reduce_range=config.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[config.calibration],
            nodes_to_exclude=_normalization(nodes),
            extra_options={"TensorQuantOverrides": _depthwise_overrides(nodes) if config.per_channel else {}},
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


def _normalization(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes before the first one with weights: mean and std, whose rounding nothing later could mend.

    They stay in float. As a whole prefix of the graph they also run so: ONNX Runtime quantizes single nodes that were
    left out again when it loads a file, and a prefix it leaves alone.
    """
    prefix = []
    for node in graph.node:
        if node.op_type in _WEIGHTED:
            break
        prefix.append(node.name)
    return prefix


def _depthwise_overrides(graph: onnx.GraphProto) -> dict[str, list[dict[str, Any]]]:
    """Return, by weight name, that depthwise convolutions keep the full range of 8 bits."""
    shapes = {initializer.name: initializer.dims for initializer in graph.initializer}
    full = {"quant_type": QuantType.QInt8, "axis": 0, "symmetric": True, "reduce_range": False}
    return {
        node.input[1]: [dict(full)]
        for node in graph.node
        if node.op_type == "Conv" and _groups(node) > 1 and _is_depthwise(shapes.get(node.input[1]), _groups(node))
    }


def _is_depthwise(shape: Any, groups: int) -> bool:
    """Say whether each group is one channel in and one out, [groups, 1, kH, kW]: others run as matrix products."""
    return shape is not None and len(shape) == 4 and shape[0] == groups and shape[1] == 1


def _groups(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)
