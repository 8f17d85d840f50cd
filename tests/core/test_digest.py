"""The digest inside a model file: a file with any change is not opened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.tiny_model import digested, tiny_model, undigested
from twincar_edge.bundled import default_model, demo_model
from twincar_edge.errors import ModelError
from twincar_edge.files import sha256
from twincar_edge.golden import GOLDEN_KEY
from twincar_edge.manifest import METADATA_KEY, read_manifest
from twincar_edge.model_file import read_model_file
from twincar_edge.onnx_metadata import DIGEST_KEY, Checked, check_digest, with_metadata
from twincar_edge.runtime.inference.session import open_session

FLIPS = 150


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model.onnx", golden=True, familiar=True)


def check(data: bytes) -> Checked:
    """Check bytes as the file readers do: bytes that are not an ONNX file are a `ModelError` too."""
    try:
        return check_digest(data, "the file")
    except ValueError as error:
        raise ModelError(f"the file is corrupt: {error}") from error


@pytest.mark.parametrize("path", [default_model(), demo_model()])
def test_flipped_bits_in_a_bundled_model_are_detected(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    assert read_model_file(path).digest is not None
    for place in rng.integers(0, len(data), FLIPS // 2):
        bit = 1 << int(rng.integers(8))
        data[place] ^= bit
        with pytest.raises(ModelError):
            check(bytes(data))
        data[place] ^= bit
    check(bytes(data))


def test_flipped_bits_and_truncation_are_detected_throughout_a_file(model: Path) -> None:
    data = bytearray(model.read_bytes())
    end = len(undigested(onnx.load(str(model))))
    for place in (*range(0, end, 7), *range(end, len(data))):
        data[place] ^= 1 << place % 8
        # A flip in the key of the digest makes it a file of an earlier version, which only gets a warning.
        with contextlib.suppress(ModelError):
            assert check(bytes(data)).digest is None and place >= end
        data[place] ^= 1 << place % 8
    for length in (end - 1, end + 1, len(data) - 1):
        with pytest.raises(ModelError):
            check(bytes(data[:length]))


def changed(model: onnx.ModelProto, **changes: Any) -> bytes:
    """Return a model with another manifest, written without renewing the digest."""
    [entry] = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    manifest = json.loads(entry.value)
    entry.value = json.dumps({**manifest, **changes})
    data: bytes = model.SerializeToString()
    return data


def classes_reversed(model: onnx.ModelProto) -> bytes:
    return changed(model, classes=read_classes(model)[::-1])


def read_classes(model: onnx.ModelProto) -> list[str]:
    [entry] = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    classes: list[str] = json.loads(entry.value)["classes"]
    return classes


def always_confident(model: onnx.ModelProto) -> bytes:
    return changed(model, temperature=50.0, reject_below=0.0)


def without_golden_inputs(model: onnx.ModelProto) -> bytes:
    helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props if entry.key != GOLDEN_KEY})
    data: bytes = model.SerializeToString()
    return data


def with_another_entry(model: onnx.ModelProto) -> bytes:
    helper.set_model_props(model, {"note": "mine", **{entry.key: entry.value for entry in model.metadata_props}})
    data: bytes = model.SerializeToString()
    return data


def with_appended_graph(model: onnx.ModelProto) -> bytes:
    """Append a graph after the digest: protobuf merges it with the first."""
    more = onnx.ModelProto()
    more.graph.name = "another"
    data: bytes = model.SerializeToString() + more.SerializeToString()
    return data


def with_a_second_digest(model: onnx.ModelProto) -> bytes:
    """Append a digest that covers the first digest: only a single one at the end is valid."""
    data: bytes = model.SerializeToString()
    entry = onnx.ModelProto()
    helper.set_model_props(entry, {DIGEST_KEY: hashlib.sha256(data).hexdigest()})
    return data + bytes(entry.SerializeToString())


SABOTAGES: tuple[Callable[[onnx.ModelProto], bytes], ...] = (
    classes_reversed,
    always_confident,
    without_golden_inputs,
    with_another_entry,
    with_appended_graph,
    with_a_second_digest,
)


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_every_reader_refuses_a_changed_file_in_one_line(
    sabotage: Callable[[onnx.ModelProto], bytes], model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changed.onnx"
    path.write_bytes(sabotage(onnx.load(str(model))))
    for read in (read_manifest, read_model_file, lambda path: open_session(path, ep="cpu")):
        with pytest.raises(ModelError, match="damaged or was changed: its digest does not match") as caught:
            read(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_writing_metadata_renews_the_digest_except_of_a_damaged_file(model: Path) -> None:
    data = model.read_bytes()
    for changes in ({}, {"note": "mine"}, {GOLDEN_KEY: None}):
        check_digest(with_metadata(data, changes, "the file"), "the file")
    assert with_metadata(data, {}, "the file") == data
    damaged = data.replace(b"Castor", b"Pastor", 1)
    assert damaged != data
    with pytest.raises(ModelError, match="the file is damaged"):
        with_metadata(damaged, {"note": "mine"}, "the file")


def test_a_model_file_is_identified_by_the_digest_of_all_its_bytes(model: Path, tmp_path: Path) -> None:
    file = read_model_file(model)
    assert file.data == model.read_bytes()
    assert file.sha256 == sha256(model) == open_session(model, ep="cpu").sha256
    assert file.digest is not None and file.metadata.keys() >= {METADATA_KEY, GOLDEN_KEY}
    assert not any(key.startswith(DIGEST_KEY) for key in file.metadata)
    (tmp_path / "plain.onnx").write_bytes(undigested(onnx.load(str(model))))
    assert file.digest == sha256(tmp_path / "plain.onnx")  # it covers all bytes before it


def test_a_file_of_an_earlier_version_is_opened_with_one_warning(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "old.onnx"
    path.write_bytes(undigested(onnx.load(str(model))))
    with caplog.at_level(logging.WARNING):
        open_session(path, ep="cpu")
        path.write_bytes(digested(onnx.load(str(path))))
        open_session(path, ep="cpu")
    (record,) = caplog.records
    assert "has no digest" in record.message and record.levelno == logging.WARNING


def test_a_file_larger_than_an_onnx_file_can_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        size = 3 * 2**30  # sparse: no disk is used
        file.write(b"\x3a\x80\x80\x80\x80\x0c")  # a graph of this size
        file.seek(size, 1)
        file.write(b"\x72\x06\n\x01k\x12\x01v")
    with pytest.raises(ModelError, match="larger than an ONNX file can be"):
        read_manifest(path)
