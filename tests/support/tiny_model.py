"""A real ONNX model of a few hundred bytes that classifies a picture by its dominant color channel.

It has all parts of an exported model: uint8 NHWC input with a dynamic batch, normalization inside the graph, float32
logits, and a manifest in its metadata. Only the classifier itself is small.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from twincar_edge import __version__
from twincar_edge.export.golden import make_golden
from twincar_edge.golden import GOLDEN_KEY
from twincar_edge.manifest import (
    METADATA_KEY,
    FamiliarityRecord,
    FamiliarityThresholds,
    Manifest,
    TrainingRecord,
    read_manifest,
)
from twincar_edge.onnx_metadata import DIGEST_KEY, with_metadata
from twincar_edge.preprocess import Preprocess
from twincar_edge.prototypes import PROTOTYPES_KEY, Prototypes
from twincar_edge.runtime.inference.session import open_session

RED, GREEN, BLUE = CLASSES = ("Castor Red Sedan 2020", "Castor Green Coupe 2020", "Pollux Blue SUV 2021")
FAMILIARITY = FamiliarityRecord(
    thresholds=FamiliarityThresholds(year=0.9, model=0.9, make=0.65),
    keep={"year": 0.9, "model": 0.9, "make": 0.92},
    images=3,
    prototype_images=3,
)
SHARPNESS = 20.0  # logits of a pure color: 20 and two zeros


def tiny_model(
    path: Path,
    classes: tuple[str, ...] = CLASSES,
    reject_below: float = 0.0,
    temperature: float = 1.0,
    size_wh: tuple[int, int] = (32, 32),
    metadata: bool = True,
    golden: bool = False,
    familiar: bool = False,
    digest: bool = True,
) -> Path:
    """Write the model and return its path.

    The first three classes are red, green and blue. Further classes are the least likely ones for any picture that is
    not black. A gray picture gets equal logits for red, green and blue: `reject_below` above 1/3 makes it a Castor,
    above 2/3 unknown.
    `familiar` adds an embedding, the mean color, and prototypes for pure red, green and blue: a mix of two colors is
    not familiar enough for a full name, and gray not even for a make.
    `digest=False` omits the digest, as earlier versions did, until the metadata is written again.
    `metadata=False` omits the manifest, which makes it a foreign ONNX file. `golden` adds golden inputs.
    """
    weights = np.full((3, len(classes)), -SHARPNESS, np.float32)
    weights[:, :3] = np.eye(3, dtype=np.float32)[:, : len(classes)] * SHARPNESS
    width, height = size_wh
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["batch_nhwc"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["pixels", "scale"], ["unit"]),
            helper.make_node("ReduceMean", ["unit", "axes"], ["color"], keepdims=0),
            helper.make_node("MatMul", ["color", "weights"], ["logits"]),
        ],
        "dominant_color",
        [helper.make_tensor_value_info("batch_nhwc", TensorProto.UINT8, ["N", height, width, 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(classes)]),
            *([helper.make_tensor_value_info("color", TensorProto.FLOAT, ["N", 3])] if familiar else []),
        ],
        [
            numpy_helper.from_array(np.float32(255), "scale"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if metadata:
        manifest = Manifest(
            name="tiny",
            architecture="dominant-color",
            precision="fp32",
            classes=classes,
            preprocess=Preprocess(size_wh=size_wh, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
            temperature=temperature,
            reject_below=reject_below,
            embedding="color" if familiar else None,
            familiarity=FAMILIARITY if familiar else None,
            training=TrainingRecord(checkpoint_sha256="0" * 64, recipe={"kind": "written by hand"}),
            created=datetime(2025, 1, 1, tzinfo=UTC),
            twincar_edge_version=__version__,
        )
        props = {METADATA_KEY: manifest.to_json()}
        if familiar:
            props[PROTOTYPES_KEY] = Prototypes(np.eye(len(classes), 3, dtype=np.float32)).to_json()
        helper.set_model_props(model, props)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(digested(model) if metadata and digest else model.SerializeToString())
    return with_golden(path, path) if golden else path


def with_golden(source: Path, path: Path) -> Path:
    """Write a copy of a model file with the golden inputs that export would add, and return its path."""
    session = open_session(source, ep="cpu", threads=1)
    embed = None if session.manifest.embedding is None else session.embed
    golden = make_golden(session.run, session.manifest.preprocess, embed)
    return with_metadata_entries(source, path, {GOLDEN_KEY: golden.to_json()})


def with_manifest(source: Path, path: Path, **changes: object) -> Path:
    """Write a copy of a model file with changes to its manifest, and return its path."""
    manifest = read_manifest(source).model_copy(update=changes)
    return with_metadata_entries(source, path, {METADATA_KEY: manifest.to_json()})


def with_metadata_entries(source: Path, path: Path, changes: dict[str, str]) -> Path:
    """Write a copy of a model file with metadata entries replaced or added, and return its path."""
    path.write_bytes(with_metadata(source.read_bytes(), changes, str(source)))
    return path


def digested(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model file with a valid digest, after any changes to the model."""
    return with_metadata(undigested(model), {}, "the changed model")


def undigested(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model file without a digest, as earlier versions wrote it."""
    helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props if entry.key != DIGEST_KEY})
    data: bytes = model.SerializeToString()
    return data
