"""A manifest round-trips through an ONNX file, and a damaged or hostile file is a one-line error."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from twincar_edge.errors import ModelError
from twincar_edge.manifest import (
    METADATA_KEY,
    DataRecord,
    Manifest,
    ParityRecord,
    QuantizationRecord,
    TrainingRecord,
    parse_manifest,
    read_manifest,
)
from twincar_edge.onnx_metadata import DIGEST_KEY, read_metadata, with_metadata
from twincar_edge.preprocess import Preprocess


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "twins",
        "architecture": "resnet50",
        "precision": "int8",
        "classes": ("Škoda Octavia Wagon 2012", "AM General Hummer SUV 2000"),
        "preprocess": Preprocess(size_wh=(64, 48), mean=(0.1, 0.2, 1 / 3)),
        "temperature": 1.25,
        "reject_below": 0.4,
        "training": TrainingRecord(
            checkpoint_sha256="ab" * 32,
            recipe={"epochs": 3, "nested": {"lr": 0.1}},
            data=DataRecord(name="cars", images=12, digest="cd" * 32),
            epoch=2,
            validation_top1=0.9,
            validation_top5=1.0,
        ),
        "quantization": QuantizationRecord(
            activations="uint8", weights="int8", per_channel=True, reduce_range=False, calibration="minmax",
            calibration_images=64,
        ),
        "parity": ParityRecord(
            against="fp32", images=9, top1=0.9, top5=1, top1_reference=0.9, top5_reference=1, agreement=0.99,
            max_abs_logit_difference=0.3,
        ),
        "notes": "drawn cars,\nno terms",
        "created": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "twincar_edge_version": "0.1.0",
    }  # fmt: skip
    return Manifest.model_validate(fields | changes)


def onnx_model(metadata: dict[str, str]) -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weights],
    )
    model = helper.make_model(graph, producer_name="test", opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


GOOD = onnx_model({METADATA_KEY: manifest().to_json(), "other": "text ✓"}).SerializeToString()


def test_a_manifest_round_trips_through_an_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(GOOD)
    assert read_manifest(path) == manifest()
    assert read_manifest(path).class_mapping.names == manifest().classes


def test_metadata_equals_what_the_onnx_package_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(GOOD)
    assert read_metadata(path) == {prop.key: prop.value for prop in onnx.load(path).metadata_props}


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=300), max_size=5))
@settings(max_examples=50, deadline=None)
def test_any_metadata_round_trips(tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(onnx_model(metadata).SerializeToString())
    assert read_metadata(path) == metadata


@given(
    st.dictionaries(st.text(max_size=3), st.text(max_size=300), max_size=5),
    st.dictionaries(st.text(max_size=3), st.none() | st.text(max_size=300), max_size=5),
)
@settings(max_examples=50, deadline=None)
def test_changed_entries_are_read_by_the_onnx_package_and_the_model_is_unchanged(
    metadata: dict[str, str], changes: dict[str, str | None]
) -> None:
    before = onnx_model(metadata)
    after = onnx.load_model_from_string(with_metadata(before.SerializeToString(), changes, "the file"))
    expected = {key: text for key, text in (metadata | changes).items() if text is not None}
    assert {entry.key: entry.value for entry in after.metadata_props if entry.key != DIGEST_KEY} == expected
    before.ClearField("metadata_props")
    after.ClearField("metadata_props")
    assert after == before


def test_metadata_is_not_added_to_an_invalid_onnx_file() -> None:
    with pytest.raises(ModelError, match="the file is not an ONNX model"):
        with_metadata(GOOD[:-1], {"key": "text"}, "the file")


def test_a_model_without_a_manifest_is_refused_as_foreign(tmp_path: Path) -> None:
    path = tmp_path / "yolo.onnx"
    path.write_bytes(onnx_model({"names": "{}"}).SerializeToString())
    with pytest.raises(ModelError, match=r"was not exported by twincar-edge .*twincar-edge export"):
        read_manifest(path)


@pytest.mark.shared
def test_a_real_foreign_model_is_refused(shared: Path) -> None:
    with pytest.raises(ModelError, match="was not exported by twincar-edge"):
        read_manifest(shared / "models" / "yolox_nano_coco.onnx")


def document(**changes: Any) -> str:
    return json.dumps(json.loads(manifest().to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the document: Invalid JSON"),
        ("{", "the document: Invalid JSON"),
        ("[" * 100_000, "recursion limit"),
        ("null", "Input should be an object"),
        ('"manifest"', "Input should be an object"),
        ("{}", "'name': Field required"),
        (document(schema_version=2, later="field"), "schema version 2, this release reads 1: upgrade"),
        (document(schema_version="9" * 5000), "schema version '9999"),
        (document(classes=["A", "A"]), "'A' appears twice"),
        (document(classes=[]), "found 0"),
        (document(classes=["A\n"]), "not printable"),
        (document(classes=[1, 2]), "'classes.0'"),
        (document(name=""), "'name'"),
        (document(name="\x1b[2Jgone"), "control characters"),
        (document(name="cars\nmodel replaced by admin"), "control characters"),
        (document(architecture="resnet50\u202e"), "control characters"),
        (document(notes="bell\x07"), "control characters"),
        (document(precision="int4"), "'precision'"),
        (document(temperature=0), "'temperature'"),
        (document(temperature=1e-320), "'temperature'"),
        (document(temperature=float("inf")), "'temperature'"),
        (document(reject_below=1.01), "'reject_below'"),
        (document(preprocess={"size_wh": [10**9, 10**9]}), "'preprocess.size_wh.0'"),
        (document(preprocess={"std": [0, 1, 1]}), "'preprocess.std.0'"),
        (document(parity={"against": "fp32", "images": 0}), "'parity.images'"),
        (document(created="yesterday"), "'created'"),
        (document(**{"surprise\n" * 100: 1}), "Extra inputs are not permitted"),
    ],
)
def test_an_invalid_manifest_is_a_short_one_line_error_that_names_the_field(text: str, complaint: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_manifest(text, "model.onnx")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("model.onnx has a manifest")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


def test_infinite_figures_are_refused() -> None:
    fields = manifest().parity
    assert fields is not None
    with pytest.raises(ValueError, match="finite"):
        ParityRecord.model_validate(fields.model_dump() | {"max_abs_logit_difference": float("inf")})


# Reading metadata from hostile bytes


def read(path: Path, data: bytes) -> dict[str, str] | None:
    path.write_bytes(data)
    try:
        return read_metadata(path)
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
        return None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx") / "model.onnx"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
@example(b"\x00")
@example(b"\xff" * 100)
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_random_bytes_raise_only_model_errors(scratch: Path, data: bytes) -> None:
    read(scratch, data)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_raise_only_model_errors(scratch: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for place, byte in flips:
        data[place] = byte
    read(scratch, bytes(data))


def test_truncation_never_changes_the_manifest(scratch: Path) -> None:
    whole = read(scratch, GOOD)
    assert whole is not None
    for length in [*range(0, len(GOOD), 5), *range(len(GOOD) - 40, len(GOOD))]:
        found = read(scratch, GOOD[:length])
        assert found is None or found.items() <= whole.items()


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an ONNX model"),
        (field(14, field(1, b"k") + field(2, b"v")), "no graph"),
        (varint(7 << 3) + b"\x05", "no graph"),
        (field(7, b"")[:-1] + varint(2**62), "past the end"),
        (field(7, b"") + field(14, field(1, b"k") + field(2, b"\xff\xfe")), "utf-8"),
        (field(7, b"") + field(14, field(1, b"k") + varint(2 << 3 | 2) + varint(99)), "past the end"),
        (field(7, b"") + varint(3 << 3 | 3), "wire type 3"),
        (field(7, b"") + b"\x80" * 20, "too long"),
        (varint(1 << 3) + b"\x01" + b"\x08\x01" * 200_000, "more than 100000 fields"),
    ],
)
def test_a_crafted_file_is_refused(scratch: Path, data: bytes, complaint: str) -> None:
    scratch.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_metadata(scratch)
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_huge_entry_is_refused_without_copying_it(scratch: Path) -> None:
    scratch.write_bytes(varint(14 << 3 | 2) + varint(65 * 2**20) + bytes(65 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="larger than 64 MiB"):
            read_metadata(scratch)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_large_graph_is_skipped_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    size = 3 * 2**30  # sparse: no disk is used
    with path.open("wb") as file:
        file.write(varint(7 << 3 | 2) + varint(size))
        file.seek(size, os.SEEK_CUR)
        file.write(field(14, field(1, b"k") + field(2, b"v")))
    assert read_metadata(path) == {"k": "v"}


def test_missing_files_folders_devices_and_pipes_are_named_in_the_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.onnx", tmp_path, Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(ModelError) as caught:
            read_metadata(path)
        assert str(path) in str(caught.value)


def test_the_last_of_repeated_fields_counts_as_in_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    entry = field(1, b"old") + field(1, b"k") + field(2, b"v") + struct.pack("<BI", 3 << 3 | 5, 7)
    path.write_bytes(field(7, b"") + field(14, entry) + field(14, field(1, b"only a key")))
    assert read_metadata(path) == {"k": "v"}
