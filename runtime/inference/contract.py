"""Whether a graph is what the manifest in the same file says: inputs, outputs, and the tables that go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twincar_edge.errors import ModelError
from twincar_edge.manifest import Manifest
from twincar_edge.model_file import ModelFile
from twincar_edge.prototypes import PROTOTYPES_KEY, Prototypes, parse_prototypes


def check_contract(model: Path, manifest: Manifest, session: Any) -> None:
    """Hold the graph's inputs and outputs against the manifest: they come from one file, and may still not agree.

    Raises:
        ModelError: they do not.
    """
    width, height = manifest.preprocess.size_wh
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or inputs[0].shape[1:] != [height, width, 3]:
        found = ", ".join(f"{i.type} {i.shape}" for i in inputs)
        raise ModelError(f"{model} takes {found}, its manifest says uint8 [N, {height}, {width}, 3]: export it again")
    found = ", ".join(f"{output.type} {output.shape}" for output in outputs)
    if not outputs or outputs[0].type != "tensor(float)" or outputs[0].shape[1:] != [len(manifest.classes)]:
        raise ModelError(f"{model} gives {found}, its manifest names {len(manifest.classes)} classes: export it again")
    # What the manifest names, in this order: the name, how many axes it has, and what it is.
    others: list[tuple[str, int, str]] = []
    if manifest.embedding is not None:
        others.append((manifest.embedding, 2, "an embedding is float [N, D]"))
    if manifest.head is not None:
        others.append((manifest.head.features, 4, "a feature map is float [N, C, h, w]"))
    if [output.name for output in outputs[1:]] != [name for name, _, _ in others]:
        expected = " and ".join(["logits", *(repr(name) for name, _, _ in others)]) if others else "logits alone"
        raise ModelError(f"{model} gives {found}, its manifest says {expected}: export it again")
    for output, (_, axes, meaning) in zip(outputs[1:], others, strict=True):
        if output.type not in ("tensor(float)", "tensor(float16)") or len(output.shape) != axes:
            raise ModelError(f"{model} gives {found}: {meaning}; export it again")


def open_prototypes(file: ModelFile, manifest: Manifest, session: Any) -> Prototypes:
    """Return the prototypes of a file whose manifest has thresholds of familiarity.

    Raises:
        ModelError: there are none, or they are not of the graph's classes and embedding.
    """
    model, text = str(file.path), file.metadata.get(PROTOTYPES_KEY)
    if text is None:
        raise ModelError(f"{model} has thresholds for familiarity and no prototypes: export it again")
    prototypes = parse_prototypes(text, model)
    shape = [len(manifest.classes), session.get_outputs()[1].shape[1]]
    found = [prototypes.classes, prototypes.dimensions]
    if found != shape:
        raise ModelError(f"{model} has prototypes {found}, not {shape}: export it again")
    return prototypes
