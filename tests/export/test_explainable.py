"""Explanations from a file's feature map and head equal those of PyTorch and the library `grad-cam`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.export.test_graph import model_of, onnx_logits
from tests.support.export_toys import ARCHITECTURE, CLASSES, PREPROCESS
from twincar_edge.errors import ModelError
from twincar_edge.export.explainable import with_features
from twincar_edge.export.graph import to_bytes, to_onnx, with_embedding
from twincar_edge.export.half import to_fp16
from twincar_edge.heatmaps import contributions, grad_cam_plus_plus, scaled, to_image_geometry
from twincar_edge.manifest import HeadLayer, HeadRecord, Manifest, TrainingRecord
from twincar_edge.runtime.explain import open_explainer
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.training.cam import heat_maps
from twincar_edge.training.model import TWINCAR_RESNET50, CarClassifier


def write_model(path: Path, model: CarClassifier, graph: onnx.ModelProto, precision: str = "fp32") -> Path:
    graph, head = with_features(with_embedding(graph))
    manifest = Manifest(
        name="toy",
        architecture=model.architecture,
        precision=precision,  # type: ignore[arg-type]
        classes=CLASSES.names,
        preprocess=PREPROCESS,
        training=TrainingRecord(checkpoint_sha256="0" * 64, recipe={}),
        embedding="embedding",
        head=head,
        created=datetime.now(UTC),
        twincar_edge_version="0",
    )
    path.write_bytes(to_bytes(graph, manifest))
    return path


def one_hot(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.eye(len(CLASSES), dtype=np.float32)[labels]


def maps_of(session: ModelSession, batch_nhwc: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    _, embeddings, features = session.features(batch_nhwc)
    assert features is not None and session.head is not None
    return scaled(grad_cam_plus_plus(features, session.head.gradients(one_hot(labels), embeddings)))


@pytest.fixture(scope="module", params=[ARCHITECTURE, TWINCAR_RESNET50])
def model(request: pytest.FixtureRequest) -> CarClassifier:
    return model_of(request.param)


@pytest.fixture(scope="module")
def graph(model: CarClassifier) -> onnx.ModelProto:
    return to_onnx(model)


@pytest.fixture(scope="module")
def toy() -> tuple[CarClassifier, onnx.ModelProto]:
    model = model_of(ARCHITECTURE)
    return model, to_onnx(model)


@pytest.fixture
def batch_nhwc(rng: np.random.Generator) -> NDArray[np.uint8]:
    # Patches, because the heat map of noise is flat.
    return np.kron(rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8), np.ones((1, 16, 16, 1), np.uint8))


def test_the_heat_map_equals_that_of_grad_cam(
    model: CarClassifier, graph: onnx.ModelProto, batch_nhwc: NDArray[np.uint8], tmp_path: Path
) -> None:
    session = open_session(write_model(tmp_path / "model.onnx", model, graph), ep="cpu")
    labels = np.arange(6) % 3
    library = heat_maps(model, batch_nhwc, labels)
    for ours, theirs in zip(maps_of(session, batch_nhwc, labels), library, strict=True):
        full_size = to_image_geometry(ours, (64, 64), PREPROCESS)
        np.testing.assert_allclose(full_size, theirs, atol=1e-3)
    assert library.max() > 0.9


def test_half_precision_gives_nearly_the_same_heat_map(
    model: CarClassifier, graph: onnx.ModelProto, batch_nhwc: NDArray[np.uint8], tmp_path: Path
) -> None:
    single = open_session(write_model(tmp_path / "fp32.onnx", model, graph), ep="cpu")
    half = open_session(write_model(tmp_path / "fp16.onnx", model, to_fp16(graph), "fp16"), ep="cpu")
    labels = np.arange(6) % 3
    np.testing.assert_allclose(maps_of(half, batch_nhwc, labels), maps_of(single, batch_nhwc, labels), atol=0.03)


def test_the_feature_output_does_not_change_the_logits(
    model: CarClassifier, graph: onnx.ModelProto, batch_nhwc: NDArray[np.uint8], tmp_path: Path
) -> None:
    session = open_session(write_model(tmp_path / "model.onnx", model, graph), ep="cpu")
    expected = onnx_logits(graph, batch_nhwc)
    np.testing.assert_array_equal(session.run(batch_nhwc), expected)
    np.testing.assert_array_equal(session.features(batch_nhwc)[0], expected)


def test_contributions_add_up_to_the_difference_of_two_logits(
    toy: tuple[CarClassifier, onnx.ModelProto], batch_nhwc: NDArray[np.uint8], tmp_path: Path
) -> None:
    model, graph = toy
    session = open_session(write_model(tmp_path / "model.onnx", model, graph), ep="cpu")
    logits, _, features = session.features(batch_nhwc)
    assert features is not None and session.head is not None
    weights = np.tile(np.array([[1, -1, 0]], np.float32), (6, 1))
    bias = model.head().bias.detach().numpy()  # type: ignore[union-attr, operator]
    maps = contributions(features, session.head.gradients(weights))
    np.testing.assert_array_equal(contributions(features, session.head.gradients(-weights)), -maps)
    found = maps.sum(axis=(1, 2))
    np.testing.assert_allclose(found, logits[:, 0] - logits[:, 1] - (bias[0] - bias[1]), atol=1e-4)


def test_a_graph_with_the_feature_output_is_unchanged(toy: tuple[CarClassifier, onnx.ModelProto]) -> None:
    graph, head = with_features(with_embedding(toy[1]))
    again, same = with_features(with_embedding(graph))
    assert head is not None
    assert (again, same) == (graph, head)


def test_a_graph_without_pooling_and_linear_layers_is_unchanged() -> None:
    model = model_of("test_vit")
    graph = to_onnx(model)
    same, head = with_features(graph)
    assert head is None
    assert same is graph


def test_missing_or_unsuitable_head_weights_are_an_error(
    toy: tuple[CarClassifier, onnx.ModelProto], tmp_path: Path
) -> None:
    graph, _ = with_features(with_embedding(toy[1]))
    manifest = Manifest(
        name="toy",
        architecture=ARCHITECTURE,
        precision="fp32",
        classes=CLASSES.names,
        preprocess=PREPROCESS,
        training=TrainingRecord(checkpoint_sha256="0" * 64, recipe={}),
        embedding="embedding",
        head=HeadRecord(features="features", layers=(HeadLayer(weights="no such", by_output=True),)),
        created=datetime.now(UTC),
        twincar_edge_version="0",
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(to_bytes(graph, manifest))
    with pytest.raises(ModelError, match="no weights 'no such': export it again"):
        open_session(path, ep="cpu")
    other = next(tensor.name for tensor in graph.graph.initializer if len(tensor.dims) == 4)
    wrong = manifest.model_copy(
        update={"head": HeadRecord(features="features", layers=(HeadLayer(weights=other, by_output=True),))}
    )
    path.write_bytes(to_bytes(graph, wrong))
    with pytest.raises(ModelError, match=r"head weights \[.*export it again"):
        open_session(path, ep="cpu")


def test_a_file_without_the_feature_output_is_explained_by_occlusion(
    toy: tuple[CarClassifier, onnx.ModelProto], batch_nhwc: NDArray[np.uint8], tmp_path: Path
) -> None:
    model, graph = toy
    manifest = open_session(write_model(tmp_path / "model.onnx", model, graph), ep="cpu").manifest
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(to_bytes(with_embedding(graph), manifest.model_copy(update={"head": None})))
    assert open_explainer(model=plain).explain(batch_nhwc[0]).method == "occlusion"
    with pytest.raises(
        ModelError, match="no feature map, which grad-cam needs: export it again, or use `method='occlusion'`"
    ):
        open_explainer(model=plain, method="grad-cam").explain(batch_nhwc[0])
