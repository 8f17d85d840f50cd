"""Conversion to FP16: weights and arithmetic in half precision, for GPU providers."""

from __future__ import annotations

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from twincar_edge.export.graph import OUTPUT, check, strip


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Convert an FP32 graph of `to_onnx` to half precision, with the same inputs and outputs.

    Normalization stays in float32, because float16 loses precision for pixels up to 255. So do the logits, which
    inference divides by a temperature.

    Raises:
        ModelError: the converted graph is invalid.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    in_float = []
    for node in copied.graph.node:
        if node.op_type == "Conv":
            break
        in_float.append(node.name)
    half: onnx.ModelProto = convert_float_to_float16(copied, keep_io_types=[OUTPUT], node_block_list=in_float)
    del half.graph.value_info[:]  # some entries still have the old type
    ONNXModel(half).topological_sort()  # the converter appends its casts at the end
    strip(half)
    check(half, "the FP16 model")
    return half
