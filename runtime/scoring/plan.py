"""The list of a run: all its entries, divided into partitions, in Parquet files in the output folder.

A partition is one row group of these files, so a worker reads only its own part, and the driver holds only numbers.
The list stays as it was written when the input changes later, except for the queries of URLs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from twincar_edge.errors import InputError, require
from twincar_edge.runtime.scoring.entries import Entry, ListDigest
from twincar_edge.runtime.scoring.file_systems import EXTRA, reason, shown
from twincar_edge.runtime.scoring.storage import join, storage_of

PARTITION_SIZE = 2000  # images: 20 s of work for a core, and a file of 200 kB
PARTITION_BYTES = 256 * 2**20  # of tars and videos
PARTITIONS_PER_FILE = 100  # limits the buffer of the file being written
LIST = "_list"


@dataclass(frozen=True)
class Plan:
    """The numbers of partitions, entries, and videos among these, and the digest of all entries."""

    partitions: int
    entries: int
    videos: int
    digest: str


def write_plan(output: str, entries: Iterable[Entry], partition_size: int) -> Plan:
    """Write the list of a run. Only one partition's entries are in memory at a time.

    Raises:
        InputError: an entry cannot be listed, or the list cannot be written.
    """
    digest = ListDigest()
    writer = _ListWriter(output)
    partition: list[Entry] = []
    images = size = 0
    for entry in entries:
        digest.add(entry)
        by_bytes = entry.kind in ("tar", "video")
        new_images, new_bytes = (0, entry.size) if by_bytes else (entry.size, 0)
        full = images + new_images > partition_size or size + new_bytes > PARTITION_BYTES
        if partition and (full or len(partition) >= partition_size):
            writer.add(partition)
            partition, images, size = [], 0, 0
        partition.append(entry)
        images += new_images
        size += new_bytes
    if partition:
        writer.add(partition)
    writer.close()
    return Plan(writer.partitions, digest.count, digest.videos, digest.hexdigest())


def digest_of(entries: Iterable[Entry]) -> ListDigest:
    """Return the digest of an input's entries."""
    digest = ListDigest()
    for entry in entries:
        digest.add(entry)
    return digest


def renew_queries(output: str, partitions: int, listed: ListDigest, entries: Iterable[Entry]) -> None:
    """Put the queries of an input's URLs into the list of a run over the same URLs, in which they may have expired.

    Args:
        output: the run's output.
        partitions: how many the run has.
        listed: the digest of the input's entries.
        entries: these entries; they are read only if a query has changed.

    Raises:
        InputError: the list cannot be read or written, or it is not certain which of its URLs is which.
    """
    if listed.with_queries() == listed.hexdigest():
        return
    written = digest_of(chain.from_iterable(_read_partitions(output, partitions)))
    if written.with_queries() == listed.with_queries():
        return
    writer = _ListWriter(output)
    renewed = iter(entries)
    for partition in _read_partitions(output, partitions):
        new = list(islice(renewed, len(partition)))
        if list(map(_without_query, new)) != list(map(_without_query, partition)):
            raise _not_renewable(output, "in another order")
        if len(set(map(_without_query, partition))) < len(set(partition)):
            raise _not_renewable(output, "which tell its files apart")
        writer.add(new)
    writer.close()


def _without_query(entry: Entry) -> Entry:
    return entry._replace(path=shown(entry.path))


def _not_renewable(output: str, why: str) -> InputError:
    return InputError(
        f"{shown(output)} has a run over these URLs with other queries, {why}: use the same input, or name another "
        "output"
    )


def read_partition(output: str, number: int) -> list[Entry]:
    """Return the entries of a partition.

    Raises:
        InputError: the list cannot be read.
    """
    with _open_list(output, number // PARTITIONS_PER_FILE) as file:
        return _read_group(file, number % PARTITIONS_PER_FILE)


def _read_partitions(output: str, partitions: int) -> Iterator[list[Entry]]:
    for first in range(0, partitions, PARTITIONS_PER_FILE):
        with _open_list(output, first // PARTITIONS_PER_FILE) as file:
            for group in range(min(PARTITIONS_PER_FILE, partitions - first)):
                yield _read_group(file, group)


@contextmanager
def _open_list(output: str, number: int) -> Iterator[Any]:
    pyarrow = require("pyarrow", EXTRA)
    parquet: Any = require("pyarrow.parquet", EXTRA)
    path = _list_file(output, number)
    try:
        with storage_of(path).open(path) as opened, parquet.ParquetFile(opened) as file:
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read the run's list {shown(path)}: {reason(error)}") from error


def _read_group(file: Any, group: int) -> list[Entry]:
    rows = file.read_row_group(group, use_threads=False).to_pylist()
    return [Entry(**(row | {"path": row["path"].decode("utf-8", "surrogateescape")})) for row in rows]


class _ListWriter:
    def __init__(self, output: str) -> None:
        self.partitions = 0
        self._output = output
        self._buffer: Any = None
        self._writer: Any = None

    def add(self, partition: list[Entry]) -> None:
        pa: Any = require("pyarrow", EXTRA)
        if self._writer is None:
            parquet: Any = require("pyarrow.parquet", EXTRA)
            self._buffer = pa.BufferOutputStream()
            self._writer = parquet.ParquetWriter(self._buffer, _schema(), compression="zstd")
        columns = dict(zip(Entry._fields, map(list, zip(*partition, strict=True)), strict=True))
        columns["path"] = [path.encode("utf-8", "surrogateescape") for path in columns["path"]]
        self._writer.write_table(pa.Table.from_pydict(columns, _schema()), row_group_size=len(partition))
        self.partitions += 1
        if self.partitions % PARTITIONS_PER_FILE == 0:
            self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            path = _list_file(self._output, (self.partitions - 1) // PARTITIONS_PER_FILE)
            storage_of(path).write(path, self._buffer.getvalue().to_pybytes())
            self._writer = self._buffer = None


def _list_file(output: str, number: int) -> str:
    return join(output, LIST, f"{number:05d}.parquet")


def _schema() -> Any:
    pa: Any = require("pyarrow", EXTRA)
    return pa.schema(
        [
            ("kind", pa.string()),
            ("path", pa.binary()),  # a local name need not be UTF-8
            ("size", pa.int64()),
            ("group", pa.int32()),
            ("row", pa.int64()),
            ("column", pa.string()),
        ]
    )
