"""Entries of an input: images, row groups of encoded images, tars, and videos."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

from twincar_edge.files import as_text
from twincar_edge.runtime.scoring.file_systems import shown

Kind = Literal["image", "rows", "tar", "video"]


class Entry(NamedTuple):
    """One thing to score.

    Attributes:
        kind: an image file, a row group of a Parquet file with encoded images, a tar of images, or a video.
        path: a local path or a URL.
        size: bytes of a tar or video, rows of a row group; 1 for an image.
        group: the index of the row group.
        row: the group's first row in the file.
        column: the Parquet column of the images.
    """

    kind: Kind
    path: str
    size: int = 1
    group: int = 0
    row: int = 0
    column: str = ""

    @property
    def shown(self) -> str:
        """Return the path as it is written to the output."""
        return as_text(shown(self.path))


class ListDigest:
    """The digest of a set of entries. The order does not matter, because a folder may be listed in any order.

    It is the sum of the entries' SHA-256 modulo 2**256, which detects accidental differences, not deliberate ones.
    The queries of URLs do not count, because a presigned URL has another one when it is renewed.
    """

    def __init__(self) -> None:
        self.count = 0
        self.videos = 0
        self._sum = self._sum_with_queries = 0

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        path = shown(entry.path)
        number = _number(entry, path)
        self._sum += number
        self._sum_with_queries += number if path == entry.path else _number(entry, entry.path)
        self.count += 1
        self.videos += entry.kind == "video"

    def hexdigest(self) -> str:
        """Return the digest of the entries so far, as 64 hex digits."""
        return f"{self._sum % 2**256:064x}"

    def with_queries(self) -> str:
        """Return the digest in which the queries count, as 64 hex digits. It is the same if there are none."""
        return f"{self._sum_with_queries % 2**256:064x}"


def _number(entry: Entry, path: str) -> int:
    text = f"{entry.kind}\0{entry.size}\0{entry.group}\0{path}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest())
