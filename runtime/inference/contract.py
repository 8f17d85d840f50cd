"""Checks that a graph matches the manifest in the same file: its inputs, outputs and prototypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twincar_edge.errors import ModelError
from twincar_edge.manifest import Manifest
from twincar_edge.model_file import ModelFile
from twincar_edge.prototypes import PROTOTYPES_KEY, Prototypes, parse_prototypes


def check_contract(model: Path, manifest: Manifest, session: Any) -> None:
    """Check the graph's inputs and outputs against the manifest. A file that was edited may contradict itself.

    Raises:
        ModelError: they differ.
    """
    width, height = manifest.preprocess.size_wh
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or inputs[0].shape[1:] != [height, width, 3]:
        found = ", ".join(f"{i.type} {i.shape}" for i in inputs)
        raise ModelError(
            f"{model} has the inputs {found}, its manifest requires uint8 [N, {height}, {width}, 3]: export it again"
        )
    found = ", ".join(f"{output.type} {output.shape}" for output in outputs)
    if not outputs or outputs[0].type != "tensor(float)" or outputs[0].shape[1:] != [len(manifest.classes)]:
        raise ModelError(
            f"{model} has the outputs {found}, its manifest names {len(manifest.classes)} classes: export it again"
        )
    # The further outputs that the manifest names, in order: name, number of axes, meaning.
    others: list[tuple[str, int, str]] = []
    if manifest.embedding is not None:
        others.append((manifest.embedding, 2, "an embedding is float [N, D]"))
    if manifest.head is not None:
        others.append((manifest.head.features, 4, "a feature map is float [N, C, h, w]"))
    if [output.name for output in outputs[1:]] != [name for name, _, _ in others]:
        expected = " and ".join(["logits", *(repr(name) for name, _, _ in others)]) if others else "logits alone"
        raise ModelError(f"{model} has the outputs {found}, its manifest requires {expected}: export it again")
    for output, (_, axes, meaning) in zip(outputs[1:], others, strict=True):
        if output.type not in ("tensor(float)", "tensor(float16)") or len(output.shape) != axes:
            raise ModelError(f"{model} has the outputs {found}, but {meaning}: export it again")


def open_prototypes(file: ModelFile, manifest: Manifest, session: Any) -> Prototypes:
    """Return the prototypes of a file whose manifest has familiarity thresholds.

    Raises:
        ModelError: the file has none, or they do not fit the graph's classes and embedding.
    """
    model, text = str(file.path), file.metadata.get(PROTOTYPES_KEY)
    if text is None:
        raise ModelError(f"{model} has familiarity thresholds but no prototypes: export it again")
    prototypes = parse_prototypes(text, model)
    shape = [len(manifest.classes), session.get_outputs()[1].shape[1]]
    found = [prototypes.classes, prototypes.dimensions]
    if found != shape:
        raise ModelError(f"{model} has prototypes {found}, not {shape}: export it again")
    return prototypes
