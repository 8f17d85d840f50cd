"""Reads and replaces `metadata_props` in an ONNX file's bytes, without the onnx package.

An ONNX file is one protobuf message (`ModelProto`). `metadata_props` is field 14 and repeats; each entry is a message
of two strings, key (1) and value (2). All other top-level fields, the graph with its weights among them, are skipped by
their length, and copied as they are. Source: onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from twincar_edge.checkpoint_signs import is_checkpoint
from twincar_edge.errors import Call, ModelError, TwincarError
from twincar_edge.protobuf import Buffer, encode, fields

_METADATA_PROPS = 14
_GRAPH = 7
_KEY, _VALUE = 1, 2
MAX_ENTRY_BYTES = 64 * 2**20


@contextmanager
def open_onnx(path: Path) -> Iterator[Buffer]:
    """Give an ONNX file's bytes, of which only those that are asked for are read.

    Raises:
        ModelError: the file is missing or may not be read, or what is done with its bytes raises ValueError.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} is a folder or a device, not an ONNX file")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error
    except ValueError as error:  # malformed, and mmap's own for an empty file
        if is_checkpoint(path):
            raise ModelError(f"{path} is a checkpoint: export it first: ", Call("export", path)) from error
        raise ModelError(f"{path} is not an ONNX model, or is corrupt: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file as a dictionary.

    Raises:
        ModelError: the file is missing, may not be read, or is not an ONNX model.
    """
    with open_onnx(path) as data:
        return _metadata(data)


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
        for field in fields(data):
            known = {} if field.span is None or field.number != _METADATA_PROPS else _entry(data, field.span)
            if _KEY not in known or known[_KEY].decode("utf-8") not in changes:
                kept.append(data[field.whole])
    except ValueError as error:
        raise ModelError(f"{where} is not an ONNX model, or is corrupt: {error}") from error
    for key, text in changes.items():
        if text is None:
            continue
        entry = encode(_KEY, key.encode("utf-8")) + encode(_VALUE, text.encode("utf-8"))
        if len(entry) > MAX_ENTRY_BYTES:
            raise ModelError(f"{where} cannot hold {key}: it would be larger than {MAX_ENTRY_BYTES >> 20} MiB")
        kept.append(encode(_METADATA_PROPS, entry))
    return b"".join(kept)


def _metadata(data: Buffer) -> dict[str, str]:
    found: dict[str, str] = {}
    has_graph = False
    for number, span, _, _ in fields(data):
        if span is None:
            continue
        has_graph |= number == _GRAPH
        if number == _METADATA_PROPS:
            if span.stop - span.start > MAX_ENTRY_BYTES:
                raise ValueError(f"an entry of its metadata is larger than {MAX_ENTRY_BYTES >> 20} MiB")
            entry = _entry(data, span)
            if _KEY in entry and _VALUE in entry:
                found[entry[_KEY].decode("utf-8")] = entry[_VALUE].decode("utf-8")
    if not has_graph:
        raise ValueError("it holds no graph")
    return found


def _entry(data: Buffer, message: slice) -> dict[int, bytes]:
    """Return the texts of an entry; a dict keeps the last of a repeated field, as protobuf does."""
    return {field.number: data[field.span] for field in fields(data, message) if field.span is not None}
