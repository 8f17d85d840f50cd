"""Familiarity: an unfamiliar picture gets no full name, whatever its probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from tests.support.tiny_model import FAMILIARITY, RED, digested, tiny_model, with_golden, with_manifest
from twincar_edge.errors import InputError, ModelError
from twincar_edge.golden import read_golden
from twincar_edge.preprocess import prepare_batch
from twincar_edge.prototypes import PROTOTYPES_KEY, Prototypes
from twincar_edge.runtime.evidence import Evidence, VehicleCrop
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.golden_check import check_golden
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.published import unfamiliar


def picture(*color_bgr: int) -> NDArray[np.uint8]:
    return np.full((8, 8, 3), color_bgr, np.uint8)


PURE, MIXED, GRAY = picture(0, 0, 255), picture(0, 170, 255), picture(150, 160, 170)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "familiar.onnx", familiar=True)


def test_an_answer_is_as_specific_as_the_picture_is_familiar(model: Path) -> None:
    pure, mixed, gray = Classifier(open_session(model, ep="cpu")).predict([PURE, MIXED, GRAY])
    assert (pure.name, pure.level) == (RED, "year")
    assert pure.familiarity == pytest.approx(1.0, abs=1e-3)
    assert mixed.top5[0].probability > 0.99  # as sure as of the pure one
    assert (mixed.name, mixed.level, mixed.label) == ("Castor", "make", None)
    assert mixed.familiarity is not None
    assert 0.65 <= mixed.familiarity < 0.9
    assert (gray.name, gray.vehicle) == ("unknown", None)


def test_without_prototypes_probability_alone_decides(tmp_path: Path) -> None:
    classifier = Classifier(open_session(tiny_model(tmp_path / "old.onnx"), ep="cpu"))
    [mixed] = classifier.predict([MIXED])
    assert (mixed.name, mixed.familiarity) == (RED, None)
    with pytest.raises(ModelError, match="no embedding output"):
        classifier.session.embed(np.zeros((1, 32, 32, 3), np.uint8))


def test_embeddings_are_those_of_the_graph_one_row_per_image_or_box(model: Path, tmp_path: Path) -> None:
    ready = Classifier(model, ep="cpu", threads=1)
    expected = ready.session.embed(prepare_batch([PURE, MIXED], ready.manifest.preprocess))
    assert np.array_equal(ready.embed([PURE, MIXED]), expected)
    assert np.array_equal(ready.embed(PURE), expected[:1])
    both = np.concatenate([PURE, MIXED], axis=1)
    assert np.allclose(ready.embed(both, boxes=[[8, 0, 16, 8], [0, 0, 8, 8]]), expected[::-1])
    assert len(ready.embed((PURE,) * 40)) == 40
    none = ready.embed([])
    assert (none.shape, none.dtype) == ((0, expected.shape[1]), np.float32)
    with pytest.raises(InputError, match="boxes belong to one image"):
        ready.embed([PURE], boxes=[[0, 0, 8, 8]])
    with pytest.raises(ModelError, match="no embedding output: export it again"):
        Classifier(tiny_model(tmp_path / "old.onnx"), ep="cpu").embed(PURE)


def test_no_images_give_no_answers(model: Path) -> None:
    logits, familiarity = open_session(model, ep="cpu").judge(np.empty((0, 32, 32, 3), np.uint8))
    assert logits.shape == (0, 3)
    assert familiarity is not None
    assert familiarity.shape == (0,)


def test_the_crops_of_a_visit_count_by_weight(model: Path) -> None:
    classifier = Classifier(open_session(model, ep="cpu"))
    evidence = Evidence()
    for frame, (image, weight) in enumerate([(PURE, 1.0), (MIXED, 3.0)]):
        [(probabilities, familiarity)] = classifier.judge([image]).rows()
        evidence.add(VehicleCrop(frame, (0, 0, 8, 8), image, weight), probabilities, classifier, familiarity)
    pure, mixed = classifier.predict([PURE, MIXED])
    assert pure.familiarity is not None
    assert mixed.familiarity is not None
    assert evidence.familiarity == pytest.approx((pure.familiarity + 3 * mixed.familiarity) / 4)
    assert evidence.answer().level == "make"
    assert unfamiliar(pure, evidence.familiarity, classifier.manifest)
    assert not unfamiliar(mixed, evidence.familiarity, classifier.manifest)
    assert not unfamiliar(pure, FAMILIARITY.thresholds.year - 0.01, classifier.manifest)  # within the margin


def test_golden_inputs_detect_a_changed_embedding(model: Path, tmp_path: Path) -> None:
    path = with_golden(model, tmp_path / "golden.onnx")
    golden = read_golden(path)
    assert golden is not None
    assert golden.embeddings is not None
    assert check_golden(open_session(path, ep="cpu"), golden).passed
    golden.embeddings[:] = golden.embeddings[:, ::-1]
    assert any("embeddings are off" in fault for fault in check_golden(open_session(path, ep="cpu"), golden).faults)


def rewritten(model: Path, prototypes: str | None) -> Path:
    graph = onnx.load(model)
    props = {entry.key: entry.value for entry in graph.metadata_props if entry.key != PROTOTYPES_KEY}
    del graph.metadata_props[:]
    helper.set_model_props(graph, props if prototypes is None else {**props, PROTOTYPES_KEY: prototypes})
    model.write_bytes(digested(graph))
    return model


@pytest.mark.parametrize(
    ("prototypes", "message"),
    [
        (None, "no prototypes"),
        ("{}", "prototypes that are not valid"),
        (Prototypes(np.eye(2, 3, dtype=np.float32)).to_json(), r"prototypes \[2, 3\], not \[3, 3\]"),
        (Prototypes(np.eye(3, dtype=np.float32), (1, 2)).to_json(), r"prototypes \[2, 3\], not \[3, 3\]"),
        (Prototypes(np.eye(3, 4, dtype=np.float32)).to_json(), r"prototypes \[3, 4\], not \[3, 3\]"),
    ],
)
def test_prototypes_that_do_not_fit_are_refused(model: Path, prototypes: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        open_session(rewritten(model, prototypes), ep="cpu")


def test_a_graph_without_the_embedding_of_its_manifest_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its manifest requires logits and 'other'"):
        open_session(with_manifest(model, tmp_path / "other.onnx", embedding="other"), ep="cpu")
    with pytest.raises(ModelError, match="its manifest requires logits alone"):
        open_session(with_manifest(model, tmp_path / "none.onnx", embedding=None, familiarity=None), ep="cpu")
