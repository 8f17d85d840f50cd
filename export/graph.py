"""From a PyTorch classifier to a clean ONNX graph, and from a graph to the bytes of a model file."""

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
from twincar_edge.prototypes import PROTOTYPES_KEY, Prototypes
from twincar_edge.training.model import CarClassifier

logger = logging.getLogger(__name__)

INPUT, OUTPUT, EMBEDDING = "batch_nhwc", "logits", "embedding"
LINEAR_LAYERS = ("Gemm", "MatMul")
EXAMPLE_BATCH = 2  # torch.export takes a batch of 0 or 1 for a constant


def to_onnx(model: CarClassifier, opset: int = OPSET) -> onnx.ModelProto:
    """Return the classifier as an ONNX graph: `batch_nhwc` uint8 [batch, H, W, 3] to `logits` float32 [batch, classes].

    The batch is dynamic, mean and std are inside, BatchNorm is folded into the convolutions, weights are inside the
    file. What torch writes beside it (source lines with local paths, stack traces) is taken out.

    Args:
        model: the classifier.
        opset: the ONNX operator set, one of `opset.OPSETS`.

    Raises:
        ModelError: torch cannot export this architecture, or the graph is not a valid one.
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
        raise ModelError(f"{model.architecture} cannot be exported to ONNX: {_reason(error)}") from error
    assert program is not None  # only the legacy exporter returns None
    graph = program.model_proto
    strip(graph)
    check(graph, model.architecture)
    left = sum(node.op_type == "BatchNormalization" for node in graph.graph.node)
    if left:
        logger.info("%s keeps %d BatchNorm layers that do not follow a convolution", model.architecture, left)
    return graph


def with_embedding(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with a second output, `embedding` [batch, D]: what its last layer with weights takes.

    For a network with one layer after pooling these are the pooled features, not yet scaled to a length. The graph may
    be in any precision; of an INT8 one they are the rounded features that the last layer sees. They are float32, and
    float16 in a half-precision graph, where ONNX Runtime's CPU provider undoes a cast. Nothing is computed that was not
    computed before, and the logits stay the same. A graph that does not end in a layer of this kind, or that has the
    output already, is returned as it is.
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
    """Return a graph in which an inner tensor has another name, and no note of its type: it can become an output."""
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    for node in result.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if known == tensor else known for known in names]
    for known in [info for info in result.graph.value_info if info.name == tensor]:
        result.graph.value_info.remove(known)
    return result


def last_layer(graph: onnx.ModelProto) -> onnx.NodeProto | None:
    """Return the node with weights that gives the logits, or None where it is of a kind that is not looked for."""
    producers = {name: node for node in graph.graph.node for name in node.output}
    node = producers.get(OUTPUT)
    while node is not None and node.op_type not in LINEAR_LAYERS:
        # From logits back through what may stand behind the layer: Cast, QuantizeLinear and DequantizeLinear, Add.
        node = producers.get(node.input[0]) if node.input else None
    return node


def has_embedding(graph: onnx.ModelProto) -> bool:
    """Return whether a graph has the output that `with_embedding` adds."""
    return any(output.name == EMBEDDING for output in graph.graph.output)


def strip(graph: onnx.ModelProto) -> None:
    """Take out, in place, all that is not needed to run: notes at every level, operator sets that no node uses.

    torch notes for each node the Python source line that it comes from, with its path, and ONNX Runtime's quantizer
    notes what it did. A file that leaves the building says only what its manifest says. ONNX Runtime also declares
    every operator set that it knows, its own included, which other runtimes may refuse.
    """
    for part in _parts(graph):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    used = {node.domain for part in (graph.graph, *graph.functions) for node in part.node}
    declared = [opset for opset in graph.opset_import if opset.domain in used]
    graph.ClearField("opset_import")
    graph.opset_import.extend(declared)


def check(graph: onnx.ModelProto, name: str) -> None:
    """Run the ONNX checker, type and shape inference included.

    Raises:
        ModelError: the graph is not valid; `name` says whose it is.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the ONNX graph of {name} is not valid: {_reason(error)}") from error


def to_bytes(
    graph: onnx.ModelProto,
    manifest: Manifest,
    golden: Golden | None = None,
    prototypes: Prototypes | None = None,
    held_out: HeldOut | None = None,
) -> bytes:
    """Return the model file: the graph with what is given as its only metadata. The graph stays as it is."""
    stamped = onnx.ModelProto()
    stamped.CopyFrom(graph)
    metadata = {METADATA_KEY: manifest.to_json()}
    if golden is not None:
        metadata[GOLDEN_KEY] = golden.to_json()
    if prototypes is not None:
        metadata[PROTOTYPES_KEY] = prototypes.to_json()
    if held_out is not None:
        metadata[HELD_OUT_KEY] = held_out.to_json()
    onnx.helper.set_model_props(stamped, metadata)
    data: bytes = stamped.SerializeToString(deterministic=True)
    return data


def value_info(graph: onnx.ModelProto, name: str) -> onnx.ValueInfoProto | None:
    """Return the type and shape of a tensor, or None where inference cannot tell."""
    inferred = onnx.shape_inference.infer_shapes(graph)
    return next((info for info in inferred.graph.value_info if info.name == name), None)


def _parts(graph: onnx.ModelProto) -> Iterator[Any]:
    """Yield every message of the file that can carry notes."""
    yield graph
    yield graph.graph
    for function in graph.functions:
        yield function
        yield from function.node
    for group in ("node", "initializer", "input", "output", "value_info"):
        yield from getattr(graph.graph, group)


def _reason(error: Exception) -> str:
    """Return the cause at the root of a chain of errors, in one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
