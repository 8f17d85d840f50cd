"""Reads and replaces `metadata_props` in an ONNX file's bytes, without the onnx package.

An ONNX file is one protobuf message (`ModelProto`), a sequence of fields: a key (field number and wire type), then a
value. `metadata_props` is field 14 and repeats; each entry is a message of two strings, key (1) and value (2). All
other top-level fields, the graph with its weights among them, are skipped by their length, and copied as they are.
Source: https://protobuf.dev/programming-guides/encoding/ and onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from twincar_edge.checkpoint_signs import is_checkpoint
from twincar_edge.errors import Call, ModelError, TwincarError

_METADATA_PROPS = 14
_GRAPH = 7
_KEY, _VALUE = 1, 2
# Far above any real model, and low enough that a crafted file costs neither minutes nor gigabytes.
MAX_FIELDS = 100_000
MAX_ENTRY_BYTES = 64 * 2**20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Buffer = mmap.mmap | bytes


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file as a dictionary.

    Raises:
        ModelError: the file is missing, may not be read, or is not an ONNX model.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} is a folder or a device, not an ONNX file")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _metadata(data)
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error
    except ValueError as error:  # malformed, and mmap's own for an empty file
        if is_checkpoint(path):
            raise ModelError(f"{path} is a checkpoint: export it first: ", Call("export", path)) from error
        raise ModelError(f"{path} is not an ONNX model, or is corrupt: {error}") from error


def is_onnx(path: Path) -> bool:
    """Return whether a file is an ONNX model, of ours or not."""
    try:
        read_metadata(path)
    except TwincarError:
        return False
    return True


def with_metadata(data: bytes, changes: Mapping[str, str | None], where: str) -> bytes:
    """Return the bytes of an ONNX file with some entries of its metadata replaced, added, or, for None, removed.

    Everything else keeps its bytes and its order, so the graph is the same.

    Args:
        data: the file.
        changes: the new text of each entry by key.
        where: names the file in an error.

    Raises:
        ModelError: it is not an ONNX model, or an entry is larger than `read_metadata` accepts.
    """
    kept: list[bytes] = []
    try:
        for number, value, field in _fields_with_keys(data):
            entry = b"" if value is None or number != _METADATA_PROPS else data[value]
            keys = [entry[text].decode("utf-8") for key, text in _fields(entry) if key == _KEY and text is not None]
            if not keys or keys[-1] not in changes:
                kept.append(data[field])
    except ValueError as error:
        raise ModelError(f"{where} is not an ONNX model, or is corrupt: {error}") from error
    for key, text in changes.items():
        if text is None:
            continue
        entry = _field(_KEY, key.encode("utf-8")) + _field(_VALUE, text.encode("utf-8"))
        if len(entry) > MAX_ENTRY_BYTES:
            raise ModelError(f"{where} cannot hold {key}: it would be larger than {MAX_ENTRY_BYTES >> 20} MiB")
        kept.append(_field(_METADATA_PROPS, entry))
    return b"".join(kept)


def _metadata(data: Buffer) -> dict[str, str]:
    found: dict[str, str] = {}
    has_graph = False
    for number, value in _fields(data):
        if value is None:
            continue
        has_graph |= number == _GRAPH
        if number == _METADATA_PROPS:
            if value.stop - value.start > MAX_ENTRY_BYTES:
                raise ValueError(f"an entry of its metadata is larger than {MAX_ENTRY_BYTES >> 20} MiB")
            content = data[value]
            # A dict keeps the last of a repeated field, as protobuf does for one that is not repeated.
            entry = {key: text for key, text in _fields(content) if text is not None}
            if _KEY in entry and _VALUE in entry:
                found[content[entry[_KEY]].decode("utf-8")] = content[entry[_VALUE]].decode("utf-8")
    if not has_graph:
        raise ValueError("it holds no graph")
    return found


def _fields(data: Buffer) -> Iterator[tuple[int, slice | None]]:
    """Yield each field's number, and where its bytes lie for a field that has a length."""
    for number, value, _ in _fields_with_keys(data):
        yield number, value


def _fields_with_keys(data: Buffer) -> Iterator[tuple[int, slice | None, slice]]:
    """Yield what `_fields` does, and where the whole field lies, its key and length included."""
    position = 0
    for _ in range(MAX_FIELDS):
        if position >= len(data):
            return
        start = position
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        span = None
        if wire_type == _VARINT:
            _, position = _varint(data, position)
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        elif wire_type == _BYTES:
            length, position = _varint(data, position)
            span = slice(position, position + length)
            position += length
        else:
            raise ValueError(f"field of unknown wire type {wire_type}")
        if number == 0 or position > len(data):
            raise ValueError("a field runs past the end")
        yield number, span, slice(start, position)
    raise ValueError(f"it has more than {MAX_FIELDS} fields")


def _varint(data: Buffer, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("a number runs past the end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")


def _field(number: int, value: bytes) -> bytes:
    """Return a field that has a length, as protobuf writes it."""
    return _to_varint(number << 3 | _BYTES) + _to_varint(len(value)) + value


def _to_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
