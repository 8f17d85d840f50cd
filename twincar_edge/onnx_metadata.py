"""Reads and replaces `metadata_props` in an ONNX file's bytes, without the onnx package.

An ONNX file is one protobuf message (`ModelProto`). `metadata_props` is field 14 and repeats; each entry is a message
of two strings, key (1) and value (2). All other top-level fields, including the graph with its weights, are skipped by
their length, and copied unchanged. Source: onnx.proto.

The last entry of a file that this module wrote is its digest, the SHA-256 of all bytes before that entry. Only a
signature of that digest may follow. So every byte of the graph and of the other metadata is covered, and one pass over
the file gives both the digest and the SHA-256 of the whole file.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from twincar_edge.checkpoint_signs import is_checkpoint
from twincar_edge.errors import Call, ModelError, TwincarError
from twincar_edge.protobuf import Buffer, Field, encode, fields

DIGEST_KEY = "twincar_edge.digest"
SIGNATURE_KEY = "twincar_edge.signature"
_METADATA_PROPS = 14
_GRAPH = 7
_KEY, _VALUE = 1, 2
MAX_ENTRY_BYTES = 64 * 2**20
MAX_FILE_BYTES = 2**31  # protobuf's own limit of a message


class Checked(NamedTuple):
    """The content of a file with a valid digest.

    `metadata` excludes digest and signature, `sha256` covers the whole file, `digest` all bytes before its entry.
    `digest` and `signature` are None in a file without them.
    """

    metadata: dict[str, str]
    sha256: str
    digest: str | None
    signature: str | None


@contextmanager
def open_onnx(path: Path) -> Iterator[Buffer]:
    """Map an ONNX file into memory; only the accessed bytes are read.

    Raises:
        ModelError: the file is missing or unreadable, or the block raises ValueError.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} is a folder or a device, not an ONNX file")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error
    except ValueError as error:  # malformed, or empty, which mmap rejects
        if is_checkpoint(path):
            raise ModelError(f"{path} is a checkpoint: export it first: ", Call("export", path)) from error
        raise ModelError(f"{path} is not an ONNX model, or is corrupt: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file as a dictionary. The digest is not checked: see `check_digest`.

    Raises:
        ModelError: the file is missing, may not be read, or is not an ONNX model.
    """
    with open_onnx(path) as data:
        return _metadata(data)


def check_digest(data: Buffer, where: str) -> Checked:
    """Verify the digest in an ONNX file's bytes, and return its metadata.

    Args:
        data: the file.
        where: names the file in an error.

    Raises:
        ModelError: the digest does not match, or is in the wrong place.
        ValueError: it is malformed, or not an ONNX model.
    """
    if len(data) >= MAX_FILE_BYTES:
        raise ModelError(f"{where} is larger than an ONNX file can be ({MAX_FILE_BYTES >> 30} GiB)")
    metadata = _metadata(data)
    digest, signature = metadata.pop(DIGEST_KEY, None), metadata.pop(SIGNATURE_KEY, None)
    ours = (field.whole.start for field in fields(data) if _key(data, field) in (DIGEST_KEY, SIGNATURE_KEY))
    end = next(ours, len(data))
    with memoryview(data) as whole, whole[:end] as before, whole[end:] as behind:
        running = hashlib.sha256(before)
        found = running.hexdigest()
        running.update(behind)
        expected = _trailer(found, signature)
        if (digest is not None or signature is not None) and behind != expected:
            raise ModelError(f"{where} is damaged or was changed: its digest does not match; copy or export it again")
    return Checked(metadata, running.hexdigest(), digest, signature)


def is_onnx(path: Path) -> bool:
    """Return whether a file is an ONNX model, of ours or not."""
    try:
        read_metadata(path)
    except TwincarError:
        return False
    return True


def with_metadata(data: bytes, changes: Mapping[str, str | None], where: str) -> bytes:
    """Return the bytes of an ONNX file with some entries of its metadata replaced, added, or, for None, removed.

    All other bytes keep their content and order, so the graph is unchanged. The digest is recomputed. The signature no
    longer matches and is dropped. Without changes, this only adds the digest.

    Args:
        data: the file.
        changes: the new text of each entry by key.
        where: names the file in an error.

    Raises:
        ModelError: it is not an ONNX model, its digest does not match, or an entry is larger than `read_metadata`
            accepts.
    """
    kept: list[bytes] = []
    left_out = {*changes, DIGEST_KEY, SIGNATURE_KEY}
    try:
        check_digest(data, where)
        kept += [data[field.whole] for field in fields(data) if _key(data, field) not in left_out]
    except ValueError as error:
        raise ModelError(f"{where} is not an ONNX model, or is corrupt: {error}") from error
    for key, text in changes.items():
        if text is None:
            continue
        entry = _encoded(key, text)
        if len(entry) > MAX_ENTRY_BYTES:
            raise ModelError(f"{where} cannot hold {key}: it would be larger than {MAX_ENTRY_BYTES >> 20} MiB")
        kept.append(entry)
    changed = b"".join(kept)
    return changed + _trailer(hashlib.sha256(changed).hexdigest(), None)


def with_signature(data: bytes, signature: str) -> bytes:
    """Append a signature to the bytes of an ONNX file that end with the digest, as `with_metadata` writes them."""
    return data + _encoded(SIGNATURE_KEY, signature)


def _trailer(digest: str, signature: str | None) -> bytes:
    """Return the end of a file: the digest of all bytes before it, and its signature, if any."""
    return _encoded(DIGEST_KEY, digest) + (b"" if signature is None else _encoded(SIGNATURE_KEY, signature))


def _encoded(key: str, text: str) -> bytes:
    """Return the encoded entry of the metadata."""
    entry = encode(_KEY, key.encode("utf-8")) + encode(_VALUE, text.encode("utf-8"))
    return encode(_METADATA_PROPS, entry)


def _key(data: Buffer, field: Field) -> str | None:
    """Return the key of an entry of the metadata, and None for any other field."""
    if field.number != _METADATA_PROPS or field.span is None:
        return None
    key = _entry(data, field.span).get(_KEY)
    return None if key is None else key.decode("utf-8")


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
        raise ValueError("it has no graph")
    return found


def _entry(data: Buffer, message: slice) -> dict[int, bytes]:
    """Return the strings of an entry; of a repeated field, the last one counts, as in protobuf."""
    return {field.number: data[field.span] for field in fields(data, message) if field.span is not None}
