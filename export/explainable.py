"""Gives a model file what it needs to explain itself without PyTorch: its last feature map, and where its head is.

See `twincar_edge/heatmaps.py` for what is computed from these.
"""

from __future__ import annotations

import onnx

from twincar_edge.export.graph import LINEAR_LAYERS, check, last_layer, renamed, value_info
from twincar_edge.manifest import HeadLayer, HeadRecord

FEATURES = "features"
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
_PASSING = (*_QUANTIZED, "Cast", "Reshape", "Flatten", "Squeeze", "Identity", "Add")  # Add: the bias after a MatMul
_POOLING = ("GlobalAveragePool", "ReduceMean")
_MOST_LAYERS = 2


def with_features(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, HeadRecord | None]:
    """Return a graph with a further output, `features` [batch, C, h, w], and where its head's weights are.

    Only for a graph that ends in average pooling and one or two linear layers, with a ReLU between two. Any other is
    returned as it is, with None. One that has the output already is returned as it is, with the names of the weights.
    The graph may be in any precision; nothing is computed that was not computed before, and the logits stay the same.
    """
    producers = {name: node for node in graph.graph.node for name in node.output}
    layers: list[HeadLayer] = []
    node = last_layer(graph)
    while node is not None and node.op_type in LINEAR_LAYERS and len(layers) < _MOST_LAYERS:
        layer = _layer(graph, node)
        if layer is None:
            return graph, None
        layers.insert(0, layer)
        node, passed = _before(producers, node)
        # Quantization removes a ReLU whose clipping the 8 bits do anyway.
        clipped = "Relu" in passed or "QuantizeLinear" in passed
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
    """Return the linear layer or pooling before a layer, or None, and the kinds of nodes between."""
    passed: set[str] = set()
    found = producers.get(node.input[0])
    while found is not None and found.op_type in (*_PASSING, "Relu"):
        passed.add(found.op_type)
        found = producers.get(found.input[0])
    return found, passed


def _layer(graph: onnx.ModelProto, node: onnx.NodeProto) -> HeadLayer | None:
    """Return the names of a linear layer's weights, or None where they are of a form that is not looked for."""
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
