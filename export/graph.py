"""Converts a PyTorch classifier to a clean ONNX graph, and a graph to the bytes of a model file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import onnx
import torch

from twincar_edge.errors import ModelError
from twincar_edge.export.opset import OPSET
from twincar_edge.golden import GOLDEN_KEY, Golden
from twincar_edge.held_out import HELD_OUT_KEY, HeldOut
from twincar_edge.manifest import METADATA_KEY, Manifest
from twincar_edge.onnx_metadata import with_metadata
from twincar_edge.prototypes import PROTOTYPES_KEY, Prototypes
from twincar_edge.training.model import CarClassifier

logger = logging.getLogger(__name__)

INPUT, OUTPUT, EMBEDDING = "batch_nhwc", "logits", "embedding"
LINEAR_LAYERS = ("Gemm", "MatMul")
EXAMPLE_BATCH = 2  # torch.export treats a batch size of 0 or 1 as a constant


def to_onnx(model: CarClassifier, opset: int = OPSET) -> onnx.ModelProto:
    """Return the classifier as an ONNX graph: `batch_nhwc` uint8 [batch, H, W, 3] to `logits` float32 [batch, classes].

    The batch size is dynamic. The graph contains normalization and weights; BatchNorm is folded into convolutions.
    torch's annotations (source lines with local paths, stack traces) are removed.

    Args:
        model: the classifier.
        opset: the ONNX operator set, one of `opset.OPSETS`.

    Raises:
        ModelError: torch cannot export this architecture, or the graph is invalid.
    """
    width, height = model.preprocess.size_wh
    example = torch.zeros(EXAMPLE_BATCH, height, width, 3, dtype=torch.uint8)
    try:
        program = torch.onnx.export(
            model.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(f"cannot export {model.architecture} to ONNX: {_reason(error)}") from error
    assert program is not None  # only the legacy exporter returns None
    graph = program.model_proto
    strip(graph)
    check(graph, model.architecture)
    unfolded = sum(node.op_type == "BatchNormalization" for node in graph.graph.node)
    if unfolded:
        logger.info("%s: %d BatchNorm layers do not follow a convolution, not folded", model.architecture, unfolded)
    return graph


def with_embedding(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with an additional output `embedding` [batch, D]: the input of its last linear layer.

    For a network with one layer after pooling, this is the pooled features, not normalized. The graph may be in any
    precision; in an INT8 graph, the features are the quantized ones. They are float32, or float16 in a half-precision
    graph, where ONNX Runtime's CPU provider would remove a cast. The output adds no computation, and the logits stay
    the same. A graph that does not end in a linear layer, or that already has the output, is returned unchanged.
    """
    node = last_layer(graph)
    if node is None or has_embedding(graph):
        return graph
    features = node.input[0]
    value = value_info(graph, features)
    if value is None or value.type.tensor_type.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        return graph
    shape = value.type.tensor_type.shape.dim
    if len(shape) != 2 or not shape[1].dim_value:
        return graph
    result = renamed(graph, features, EMBEDDING)
    kind, batch = value.type.tensor_type.elem_type, graph.graph.output[0].type.tensor_type.shape.dim[0].dim_param
    result.graph.output.append(
        onnx.helper.make_tensor_value_info(EMBEDDING, kind, [batch or "batch", shape[1].dim_value])
    )
    check(result, "the model with an embedding")
    return result


def renamed(graph: onnx.ModelProto, tensor: str, name: str) -> onnx.ModelProto:
    """Return the graph with an inner tensor renamed and without its `value_info`, so that it can become an output."""
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    for node in result.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if known == tensor else known for known in names]
    for known in [info for info in result.graph.value_info if info.name == tensor]:
        result.graph.value_info.remove(known)
    return result


def last_layer(graph: onnx.ModelProto) -> onnx.NodeProto | None:
    """Return the linear layer that computes the logits, or None if there is none."""
    producers = {name: node for node in graph.graph.node for name in node.output}
    node = producers.get(OUTPUT)
    while node is not None and node.op_type not in LINEAR_LAYERS:
        # Skip the nodes that may follow the layer: Cast, QuantizeLinear, DequantizeLinear, Add.
        node = producers.get(node.input[0]) if node.input else None
    return node


def has_embedding(graph: onnx.ModelProto) -> bool:
    """Return whether a graph has the output that `with_embedding` adds."""
    return any(output.name == EMBEDDING for output in graph.graph.output)


def strip(graph: onnx.ModelProto) -> None:
    """Remove, in place, everything not needed to run: annotations at all levels, and unused operator sets.

    torch annotates each node with its Python source line and path, and ONNX Runtime's quantizer with its steps. An
    exported file must not leak these. ONNX Runtime also declares all its operator sets, including its own, which other
    runtimes may reject.
    """
    for part in _parts(graph):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    used = {node.domain for part in (graph.graph, *graph.functions) for node in part.node}
    declared = [opset for opset in graph.opset_import if opset.domain in used]
    graph.ClearField("opset_import")
    graph.opset_import.extend(declared)


def check(graph: onnx.ModelProto, name: str) -> None:
    """Run the ONNX checker, including type and shape inference.

    Raises:
        ModelError: the graph is invalid; the message contains `name`.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the ONNX graph of {name} is invalid: {_reason(error)}") from error


def to_bytes(
    graph: onnx.ModelProto,
    manifest: Manifest,
    golden: Golden | None = None,
    prototypes: Prototypes | None = None,
    held_out: HeldOut | None = None,
) -> bytes:
    """Return the bytes of a model file: the graph with the given metadata and a digest. Does not change `graph`."""
    stamped = onnx.ModelProto()
    stamped.CopyFrom(graph)
    stamped.ClearField("metadata_props")
    metadata = {METADATA_KEY: manifest.to_json()}
    if golden is not None:
        metadata[GOLDEN_KEY] = golden.to_json()
    if prototypes is not None:
        metadata[PROTOTYPES_KEY] = prototypes.to_json()
    if held_out is not None:
        metadata[HELD_OUT_KEY] = held_out.to_json()
    return with_metadata(stamped.SerializeToString(deterministic=True), metadata, manifest.name)


def value_info(graph: onnx.ModelProto, name: str) -> onnx.ValueInfoProto | None:
    """Return the type and shape of a tensor, or None if they cannot be inferred."""
    inferred = onnx.shape_inference.infer_shapes(graph)
    return next((info for info in inferred.graph.value_info if info.name == name), None)


def _parts(graph: onnx.ModelProto) -> Iterator[Any]:
    """Yield every message of the file that can have annotations."""
    yield graph
    yield graph.graph
    for function in graph.functions:
        yield function
        yield from function.node
    for group in ("node", "initializer", "input", "output", "value_info"):
        yield from getattr(graph.graph, group)


def _reason(error: Exception) -> str:
    """Return the root cause of an error as one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
