"""Identifies a recording (video file or image) by a digest of its bytes, at a bounded cost."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from twincar_edge.files import sha256

WHOLE_BYTES = 64 * 2**20  # up to this size, all bytes are hashed
BLOCKS, BLOCK_BYTES = 64, 2**20  # of a larger file


def recording_digest(path: Path) -> str:
    """Return the digest by which events name a recording, as 64 hex digits.

    It is the SHA-256 of the file. Above 64 MiB, it is the SHA-256 of the file's size and of 64 blocks of 1 MiB spread
    evenly from its first byte to its last, because reading a day's recording twice would take too long. Larger files of
    the same size that differ only between these blocks count as the same.

    Raises:
        OSError, InputError: the file cannot be read.
    """
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return sha256(path)
    digest = hashlib.sha256(b"%d " % size)
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(number * (size - BLOCK_BYTES) // (BLOCKS - 1), os.SEEK_SET)
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def image_digest(data: bytes) -> str:
    """Return the digest by which events name an image file with these bytes."""
    return hashlib.sha256(data).hexdigest()
