"""Adds the data for explanations without PyTorch to a model: its last feature map, and the location of its head.

`twincar_edge/heatmaps.py` computes heat maps from these.
"""

from __future__ import annotations

import onnx

from twincar_edge.export.graph import LINEAR_LAYERS, check, last_layer, renamed, value_info
from twincar_edge.manifest import HeadLayer, HeadRecord

FEATURES = "features"
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
_SKIPPED = (*_QUANTIZED, "Cast", "Reshape", "Flatten", "Squeeze", "Identity", "Add")  # Add: the bias after a MatMul
_POOLING = ("GlobalAveragePool", "ReduceMean")
_MAX_LAYERS = 2


def with_features(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, HeadRecord | None]:
    """Return the graph with an additional output `features` [batch, C, h, w], and the record of its head's weights.

    The graph must end in average pooling and one or two linear layers, with a ReLU between two; any other graph is
    returned unchanged, with None. A graph that already has the output is returned unchanged, with the record. The graph
    may be in any precision. The output adds no computation, and the logits stay the same.
    """
    producers = {name: node for node in graph.graph.node for name in node.output}
    layers: list[HeadLayer] = []
    node = last_layer(graph)
    while node is not None and node.op_type in LINEAR_LAYERS and len(layers) < _MAX_LAYERS:
        layer = _layer(graph, node)
        if layer is None:
            return graph, None
        layers.insert(0, layer)
        node, skipped = _before(producers, node)
        # Quantization removes a ReLU if the 8-bit range clips in the same way.
        clipped = "Relu" in skipped or "QuantizeLinear" in skipped
        if node is not None and node.op_type in LINEAR_LAYERS and not clipped:
            return graph, None
    if node is None or node.op_type not in _POOLING or not layers:
        return graph, None
    name = node.input[0]
    record = HeadRecord(features=FEATURES, layers=tuple(layers))
    if any(output.name == name == FEATURES for output in graph.graph.output):
        return graph, record
    known = value_info(graph, name)
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    if known is None or known.type.tensor_type.elem_type not in kinds or len(known.type.tensor_type.shape.dim) != 4:
        return graph, None
    result = renamed(graph, name, FEATURES)
    output = result.graph.output.add()
    output.CopyFrom(known)
    output.name = FEATURES
    check(result, "the model with features")
    return result, record


def _before(producers: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, set[str]]:
    """Return the preceding linear or pooling node, or None, and the operator types in between."""
    skipped: set[str] = set()
    found = producers.get(node.input[0])
    while found is not None and found.op_type in (*_SKIPPED, "Relu"):
        skipped.add(found.op_type)
        found = producers.get(found.input[0])
    return found, skipped


def _layer(graph: onnx.ModelProto, node: onnx.NodeProto) -> HeadLayer | None:
    """Return the names of a linear layer's weights, or None if their form is not supported."""
    initializers = {tensor.name for tensor in graph.graph.initializer}
    producers = {name: other for other in graph.graph.node for name in other.output}
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "alpha" in attributes and attributes["alpha"].f != 1.0:
        return None
    transposed = "transB" in attributes and bool(attributes["transB"].i)
    names = list(node.input[1:2])
    source = producers.get(names[0])
    if source is not None and source.op_type == "DequantizeLinear":
        names = list(source.input)
    if not set(names) <= initializers:
        return None
    weights, scales, zero_points = (*names, None, None)[:3]
    return HeadLayer(weights=weights, scales=scales, zero_points=zero_points, by_output=transposed)
