"""Reads and writes protobuf messages as far as ONNX files need it, without a protobuf package.

A message is a sequence of fields: a key (field number and wire type), then a value. A field with a length can be a
string, bytes, packed numbers or another message; the caller knows which.
Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

# Far above any real model, but low enough to bound time and memory for a crafted file.
MAX_FIELDS = 100_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Buffer = mmap.mmap | bytes


class Field(NamedTuple):
    """One field of a message.

    `span` is the position of its bytes, for a field with a length; `value` its number, for a varint (0 for a field of
    fixed width, which is not decoded); `whole` the position of the field with its key and length.
    """

    number: int
    span: slice | None
    value: int
    whole: slice


def fields(data: Buffer, message: slice | None = None) -> Iterator[Field]:
    """Yield the fields of a message.

    Args:
        data: the bytes.
        message: the position of the message in them; None for all bytes.

    Raises:
        ValueError: the message is malformed.
    """
    position, end = (0, len(data)) if message is None else (message.start, message.stop)
    for _ in range(MAX_FIELDS):
        if position >= end:
            return
        start, span, value = position, None, 0
        key, position = _varint(data, position, end)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position, end)
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        elif wire_type == _BYTES:
            length, position = _varint(data, position, end)
            span = slice(position, position + length)
            position += length
        else:
            raise ValueError(f"field of unknown wire type {wire_type}")
        if number == 0 or position > end:
            raise ValueError("a field runs past the end")
        yield Field(number, span, value, slice(start, position))
    raise ValueError(f"it has more than {MAX_FIELDS} fields")


def varints(data: Buffer, span: slice) -> list[int]:
    """Return the packed numbers of a field.

    Raises:
        ValueError: they are malformed.
    """
    found, position = [], span.start
    while position < span.stop:
        value, position = _varint(data, position, span.stop)
        found.append(value)
    return found


def encode(number: int, value: bytes) -> bytes:
    """Return a field that has a length."""
    return _to_varint(number << 3 | _BYTES) + _to_varint(len(value)) + value


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("a number runs past the end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")


def _to_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
