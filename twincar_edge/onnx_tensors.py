"""Reads weights from an ONNX file's bytes, by name, without the onnx package.

ONNX Runtime gives no access to weights, and explaining an answer needs those of the last layers.
Field numbers are from onnx.proto: `ModelProto.graph` is 7, `GraphProto.initializer` 5; of a `TensorProto`,
`dims` is 1, `data_type` 2, `float_data` 4, `int32_data` 5, `name` 8 and `raw_data` 9.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import ModelError
from twincar_edge.protobuf import Buffer, fields, varints

_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _FLOATS, _INTS, _NAME, _RAW = 1, 2, 4, 5, 8, 9
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 10: "<f2"}  # by ONNX's number for the type
MAX_TENSOR_BYTES = 512 * 2**20


def read_tensors(data: Buffer, names: Collection[str], where: str) -> dict[str, NDArray[np.generic]]:
    """Return some weights of an ONNX file by name: float32, float16, uint8 or int8, each in its own shape.

    Args:
        data: the file.
        names: the names of the weights.
        where: names the file in an error.

    Raises:
        ModelError: it is not an ONNX model, has no weights of one of these names, or has them in an unsupported form.
    """
    try:
        found = _tensors(data, names)
    except ValueError as error:
        raise ModelError(f"{where} is not an ONNX model, or is corrupt: {error}") from error
    missing = sorted(set(names) - found.keys())
    if missing:
        raise ModelError(f"{where} has no weights {missing[0]!r}: export it again")
    return found


def _tensors(data: Buffer, names: Collection[str]) -> dict[str, NDArray[np.generic]]:
    found: dict[str, NDArray[np.generic]] = {}
    for graph in fields(data):
        if graph.number != _GRAPH or graph.span is None:
            continue
        for field in fields(data, graph.span):
            if field.number == _INITIALIZER and field.span is not None:
                name = _name(data, field.span)
                if name in names:
                    found[name] = _tensor(data, field.span)
    return found


def _name(data: Buffer, tensor: slice) -> str:
    spans = [field.span for field in fields(data, tensor) if field.number == _NAME and field.span is not None]
    return data[spans[-1]].decode("utf-8", "replace") if spans else ""


def _tensor(data: Buffer, tensor: slice) -> NDArray[np.generic]:
    """Return a tensor.

    Raises:
        ValueError: it is malformed, or of an unsupported type.
    """
    dims: list[int] = []
    kind, values = 0, None
    for number, span, value, _ in fields(data, tensor):
        if number == _DIMS:
            dims += [value] if span is None else varints(data, span)
        elif number == _DATA_TYPE:
            kind = value
        elif number in (_FLOATS, _INTS, _RAW) and span is not None:
            values = number, span
    if kind not in _DTYPES or values is None:
        raise ValueError("weights of an unsupported type, or outside the file")
    dtype, (form, span) = np.dtype(_DTYPES[kind]), values
    size = math.prod(dims)
    if size * dtype.itemsize > MAX_TENSOR_BYTES:
        raise ValueError(f"weights of more than {MAX_TENSOR_BYTES >> 20} MiB")
    if form == _INTS:
        whole = np.array([_signed(value) for value in varints(data, span)], np.int64).astype(dtype)
    else:
        whole = np.frombuffer(data[span], "<f4" if form == _FLOATS else dtype).astype(dtype)
    if whole.size != size:
        raise ValueError(f"weights of {whole.size} numbers, not {size}")
    return whole.reshape(dims)


def _signed(value: int) -> int:
    """Decode an `int32` varint: negative numbers are stored as 64 bits in two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value
