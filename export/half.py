"""FP16: the graph's weights and arithmetic in half precision, for GPU providers."""

from __future__ import annotations

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from twincar_edge.export.graph import OUTPUT, check, strip


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return an FP32 graph of `to_onnx` in half precision; it takes and gives what the FP32 graph does.

    Mean and std stay in float: pixels up to 255 would lose their last bit there. So does the output, which the box
    divides by a temperature.

    Raises:
        ModelError: the converted graph is not a valid one.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    in_float = []
    for node in copied.graph.node:
        if node.op_type == "Conv":
            break
        in_float.append(node.name)
    half: onnx.ModelProto = convert_float_to_float16(copied, keep_io_types=[OUTPUT], node_block_list=in_float)
    del half.graph.value_info[:]  # some keep the type that they had
    ONNXModel(half).topological_sort()  # the casts were put at the end
    strip(half)
    check(half, "the FP16 model")
    return half
