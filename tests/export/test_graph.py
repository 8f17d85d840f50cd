"""The ONNX graph gives PyTorch's logits, and a file contains only its weights and the manifest."""

from __future__ import annotations

import getpass
import socket
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests import REPOSITORY
from tests.support.export_toys import ARCHITECTURE, CLASSES, PREPROCESS
from twincar_edge.errors import ModelError
from twincar_edge.export.graph import check, to_bytes, to_onnx
from twincar_edge.export.opset import OPSET
from twincar_edge.manifest import METADATA_KEY, Manifest, TrainingRecord, read_manifest
from twincar_edge.onnx_metadata import DIGEST_KEY
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.model import CarClassifier, torch_predict


def model_of(architecture: str, preprocess: Preprocess = PREPROCESS, classes: int = len(CLASSES)) -> CarClassifier:
    torch.manual_seed(0)
    model = CarClassifier(architecture, classes, preprocess).eval()
    # BatchNorm as after training: with its initial values, folding would hardly change anything.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def onnx_logits(graph: onnx.ModelProto, batch_nhwc: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"batch_nhwc": batch_nhwc})[0]


@pytest.fixture(scope="module")
def toy() -> tuple[CarClassifier, onnx.ModelProto]:
    model = model_of(ARCHITECTURE)
    return model, to_onnx(model)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_gives_pytorchs_logits_for_any_batch(
    toy: tuple[CarClassifier, onnx.ModelProto], rng: np.random.Generator, batch: int
) -> None:
    model, graph = toy
    noise = rng.integers(0, 256, (batch, 64, 64, 3), dtype=np.uint8)
    smooth = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[:, None], (64, 64))
    picture = np.repeat(np.stack([smooth, smooth.T, 255 - smooth], axis=-1)[None], batch, axis=0)
    for batch_nhwc in (noise, picture):
        np.testing.assert_allclose(onnx_logits(graph, batch_nhwc), torch_predict(model)(batch_nhwc), atol=1e-4)


def test_the_graph_has_the_inputs_and_outputs_of_a_model_file(toy: tuple[CarClassifier, onnx.ModelProto]) -> None:
    _, graph = toy
    [graph_input], [graph_output] = graph.graph.input, graph.graph.output
    shapes = [
        [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (graph_input, graph_output)
    ]
    assert (graph_input.name, graph_output.name) == ("batch_nhwc", "logits")
    assert graph_input.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert graph_output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert shapes == [["batch", 64, 64, 3], ["batch", 3]]
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]


def test_batchnorm_is_folded_and_no_gather_changes_the_layout(toy: tuple[CarClassifier, onnx.ModelProto]) -> None:
    kinds = {node.op_type for node in toy[1].graph.node}
    assert "BatchNormalization" not in kinds
    assert "Gather" not in kinds


def test_a_wide_input_keeps_its_height_and_width() -> None:
    model = model_of("test_resnet", Preprocess(size_wh=(96, 64), color="bgr", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 1)))
    batch_nhwc = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    np.testing.assert_allclose(onnx_logits(to_onnx(model), batch_nhwc), torch_predict(model)(batch_nhwc), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet50", "tf_efficientnet_lite0"])
def test_the_real_architectures_export_and_agree(architecture: str, rng: np.random.Generator) -> None:
    model = model_of(architecture, Preprocess(), classes=196)
    graph = to_onnx(model)
    batch_nhwc = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    expected = torch_predict(model)(batch_nhwc)
    np.testing.assert_allclose(onnx_logits(graph, batch_nhwc), expected, atol=1e-4 * max(1, np.abs(expected).max()))
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}


def manifest() -> Manifest:
    return Manifest(
        name="toy",
        architecture=ARCHITECTURE,
        precision="fp32",
        classes=CLASSES.names,
        preprocess=PREPROCESS,
        training=TrainingRecord(checkpoint_sha256="0" * 64, recipe={"seed": 1}),
        created=datetime(2025, 1, 1, tzinfo=UTC),
        twincar_edge_version="0",
    )


def test_the_manifest_is_the_only_metadata_and_reads_back(
    toy: tuple[CarClassifier, onnx.ModelProto], tmp_path: Path
) -> None:
    file = tmp_path / "toy.onnx"
    file.write_bytes(to_bytes(toy[1], manifest()))
    assert read_manifest(file) == manifest()
    assert [entry.key for entry in onnx.load(file).metadata_props] == [METADATA_KEY, DIGEST_KEY]
    assert not toy[1].metadata_props  # the graph itself is unchanged


def test_a_file_contains_no_paths_or_names_of_this_machine(toy: tuple[CarClassifier, onnx.ModelProto]) -> None:
    data = to_bytes(toy[1], manifest())
    home = str(Path.home()).encode()
    for leak in (str(REPOSITORY).encode(), b"site-packages", b".py", b"stack_trace", b"forward(", home + b"/"):
        assert leak not in data
    for name in (getpass.getuser(), socket.gethostname()):
        assert len(name) < 4 or name.encode() not in data  # shorter names occur in weights by chance


def test_an_architecture_that_torch_cannot_export_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(ARCHITECTURE)

    class Branching(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((2, 3)) if pixels.sum() > 0 else pixels.amax((2, 3))

    model.backbone = Branching()
    with pytest.raises(ModelError, match=f"cannot export {ARCHITECTURE} to ONNX") as caught:
        to_onnx(model)
    assert "\n" not in str(caught.value)


def test_an_invalid_graph_is_refused(toy: tuple[CarClassifier, onnx.ModelProto]) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(toy[1])
    broken.graph.node[3].input[0] = "nothing gives this"
    with pytest.raises(ModelError, match="graph of toy is invalid"):
        check(broken, "toy")
