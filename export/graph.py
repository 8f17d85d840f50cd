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
from twincar_edge.manifest import METADATA_KEY, Manifest
from twincar_edge.training.model import CarClassifier

logger = logging.getLogger(__name__)

INPUT, OUTPUT = "batch_nhwc", "logits"
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


def to_bytes(graph: onnx.ModelProto, manifest: Manifest, golden: Golden | None = None) -> bytes:
    """Return the model file: the graph with `manifest` and `golden` as its only metadata. The graph stays as it is."""
    stamped = onnx.ModelProto()
    stamped.CopyFrom(graph)
    metadata = {METADATA_KEY: manifest.to_json()}
    if golden is not None:
        metadata[GOLDEN_KEY] = golden.to_json()
    onnx.helper.set_model_props(stamped, metadata)
    data: bytes = stamped.SerializeToString(deterministic=True)
    return data


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
