"""The list of a run: all entries in Parquet files below the output, cut into partitions once and for all.

A partition is a row group of these files, so that a worker reads its own part of the list, and the driver holds
only numbers. What is written once does not change when the input does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from twincar_edge.errors import InputError, require
from twincar_edge.runtime.scoring.entries import Entry, ListDigest
from twincar_edge.runtime.scoring.storage import EXTRA, join, reason, storage_of

PARTITION_SIZE = 2000  # images: 20 s of work for a core, and a file of 200 kB
PARTITION_BYTES = 256 * 2**20  # of tars and videos
PARTITIONS_OF_FILE = 100  # the buffer of a file under way must stay small
LIST = "_list"


@dataclass(frozen=True)
class Plan:
    """How many partitions there are, of how many entries, how many of these are videos, and the digest of all."""

    partitions: int
    entries: int
    videos: int
    digest: str


def write_plan(output: str, entries: Iterable[Entry], partition_size: int) -> Plan:
    """Write the list of a run, one partition's entries in memory at a time.

    Raises:
        InputError: an entry cannot be listed, or the list cannot be written.
    """
    digest = ListDigest()
    writer = _ListWriter(output)
    part: list[Entry] = []
    images = size = 0
    for entry in entries:
        digest.add(entry)
        heavy = entry.kind in ("tar", "video")
        weight, load = (0, entry.size) if heavy else (entry.size, 0)
        if part and (images + weight > partition_size or size + load > PARTITION_BYTES or len(part) >= partition_size):
            writer.add(part)
            part, images, size = [], 0, 0
        part.append(entry)
        images += weight
        size += load
    if part:
        writer.add(part)
    writer.close()
    return Plan(writer.partitions, digest.count, digest.videos, digest.hexdigest())


def digest_of(entries: Iterable[Entry]) -> ListDigest:
    """Return the digest of an input's entries."""
    digest = ListDigest()
    for entry in entries:
        digest.add(entry)
    return digest


def read_partition(output: str, number: int) -> list[Entry]:
    """Return the entries of a partition.

    Raises:
        InputError: the list cannot be read.
    """
    pyarrow = require("pyarrow", EXTRA)
    parquet: Any = require("pyarrow.parquet", EXTRA)
    path = _list_file(output, number // PARTITIONS_OF_FILE)
    try:
        with storage_of(path).open(path) as opened, parquet.ParquetFile(opened) as file:
            rows = file.read_row_group(number % PARTITIONS_OF_FILE, use_threads=False).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read the list of the run, {path}: {reason(error)}") from error
    return [Entry(**(row | {"path": row["path"].decode("utf-8", "surrogateescape")})) for row in rows]


class _ListWriter:
    def __init__(self, output: str) -> None:
        self.partitions = 0
        self._output = output
        self._buffer: Any = None
        self._writer: Any = None

    def add(self, part: list[Entry]) -> None:
        pa: Any = require("pyarrow", EXTRA)
        if self._writer is None:
            parquet: Any = require("pyarrow.parquet", EXTRA)
            self._buffer = pa.BufferOutputStream()
            self._writer = parquet.ParquetWriter(self._buffer, _schema(), compression="zstd")
        columns = dict(zip(Entry._fields, map(list, zip(*part, strict=True)), strict=True))
        columns["path"] = [path.encode("utf-8", "surrogateescape") for path in columns["path"]]
        self._writer.write_table(pa.Table.from_pydict(columns, _schema()), row_group_size=len(part))
        self.partitions += 1
        if self.partitions % PARTITIONS_OF_FILE == 0:
            self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            path = _list_file(self._output, (self.partitions - 1) // PARTITIONS_OF_FILE)
            storage_of(path).write(path, self._buffer.getvalue().to_pybytes())
            self._writer = self._buffer = None


def _list_file(output: str, number: int) -> str:
    return join(output, LIST, f"{number:05d}.parquet")


def _schema() -> Any:
    pa: Any = require("pyarrow", EXTRA)
    return pa.schema(
        [
            ("kind", pa.string()),
            ("path", pa.binary()),  # a local name may be no UTF-8
            ("size", pa.int64()),
            ("group", pa.int32()),
            ("row", pa.int64()),
            ("column", pa.string()),
        ]
    )
