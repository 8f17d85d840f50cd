"""Weights read from a file's bytes equal those that the onnx package wrote."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from twincar_edge.errors import ModelError
from twincar_edge.onnx_tensors import read_tensors

ARRAYS = {
    "float32": np.array([[1.5, -2.0], [0.25, 3e38]], np.float32),
    "float16": np.array([[1.5, -2.0, 65504.0]], np.float16),
    "int8": np.array([-128, -1, 0, 127], np.int8),
    "uint8": np.array([[0], [255]], np.uint8),
    "scalar": np.array(0.5, np.float32),
}


def write(*tensors: onnx.TensorProto) -> bytes:
    graph = onnx.helper.make_graph([], "g", [], [], initializer=list(tensors))
    data: bytes = onnx.helper.make_model(graph).SerializeToString()
    return data


# `make_tensor` writes float16 that is not raw as integers, which no exporter does.
FORMS = [(name, raw) for name in ARRAYS for raw in (True, False) if raw or name != "float16"]


@pytest.mark.parametrize(("name", "raw"), FORMS)
def test_tensors_equal_the_values_in_the_file(name: str, raw: bool) -> None:
    array = ARRAYS[name]
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    values = array.tobytes() if raw else array.ravel().tolist()
    tensor = onnx.helper.make_tensor(name, kind, array.shape, values, raw=raw)
    other = onnx.numpy_helper.from_array(np.zeros(5, np.float32), "other")
    found = read_tensors(write(other, tensor), [name], "the file")
    assert found.keys() == {name} and found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)


def test_missing_weights_are_named() -> None:
    with pytest.raises(ModelError, match="has no weights 'head': export it again"):
        read_tensors(write(), ["head"], "the file")


def _short() -> onnx.TensorProto:
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "head")
    tensor.dims[:] = [5]
    return tensor


def _huge() -> onnx.TensorProto:
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "head")
    tensor.dims[:] = [1 << 40, 1 << 40]
    return tensor


def _external() -> onnx.TensorProto:
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "head")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_short(), "weights of 4 numbers, not 5"),
        (_huge(), "weights of more than 512 MiB"),
        (_external(), "or outside the file"),
        (onnx.helper.make_tensor("head", onnx.TensorProto.STRING, [1], [b"x"]), "of an unsupported type"),
    ],
)
def test_invalid_weights_are_a_model_error(tensor: onnx.TensorProto, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_tensors(write(tensor), ["head"], "the file")


def test_damaged_files_are_refused_or_read(rng: np.random.Generator) -> None:
    data = write(onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "head"))
    refused = 0
    for _ in range(300):
        changed = bytearray(data)
        changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        cut = bytes(changed[: int(rng.integers(1, len(data) + 1))])
        try:
            assert read_tensors(cut, ["head"], "the file")["head"].size <= len(data)
        except ModelError:
            refused += 1
    assert refused > 150
