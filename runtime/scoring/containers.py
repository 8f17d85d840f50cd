"""Reads encoded images from tars and Parquet files one by one, in bounded memory."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from twincar_edge.errors import require
from twincar_edge.files import as_text
from twincar_edge.images import MAX_IMAGE_BYTES
from twincar_edge.runtime.scoring.entries import Entry
from twincar_edge.runtime.scoring.file_systems import EXTRA, reason
from twincar_edge.runtime.scoring.forward_tar import DAMAGE, ForwardTar
from twincar_edge.runtime.scoring.storage import storage_of
from twincar_edge.runtime.sources.images import is_image_name

ROWS_AT_ONCE = 64  # encoded images of a Parquet file in memory


class Encoded(NamedTuple):
    """An encoded image and the path of its row; `data` is None if it cannot be read, and `problem` says why."""

    path: str
    data: bytes | None
    problem: str | None = None


def rows_of_tar(entry: Entry) -> Iterator[Encoded]:
    """Yield the images of a tar, such as a WebDataset shard, in its order; their paths are `shard.tar#name.jpg`.

    Other members, such as labels, are skipped. A truncated tar yields the images before the break, then an error.

    Raises:
        InputError: the file cannot be opened, or its storage fails.
    """
    with storage_of(entry.path).open(entry.path) as opened:
        try:
            archive = ForwardTar(opened)
            for member in archive:
                if member.isfile() and is_image_name(member.name.rpartition("/")[2]):
                    yield _member(archive, member, f"{entry.shown}#{as_text(member.name)}")
        except DAMAGE as error:
            yield Encoded(entry.shown, None, f"cannot read all of {entry.shown} as a tar: {reason(error)}")


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Encoded:
    if member.size > MAX_IMAGE_BYTES:
        return Encoded(path, None, f"{path} is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    file = archive.extractfile(member)
    assert file is not None, "a regular file"
    return Encoded(path, file.read())


def rows_of_parquet(entry: Entry) -> Iterator[Encoded]:
    """Yield the images of a Parquet row group, stored as bytes or as Hugging Face's {bytes, path}.

    Their paths are `file.parquet#7`, with the row's number in the file.

    Raises:
        InputError: the file cannot be opened, or its storage fails.
    """
    pyarrow = require("pyarrow", EXTRA)
    parquet: Any = require("pyarrow.parquet", EXTRA)
    number = entry.row
    with storage_of(entry.path).open(entry.path) as opened:
        try:
            with parquet.ParquetFile(opened) as file:
                batches = file.iter_batches(ROWS_AT_ONCE, [entry.group], [entry.column], use_threads=False)
                for batch in batches:
                    for value in batch[0].to_pylist():
                        yield _row(f"{entry.shown}#{number}", value)
                        number += 1
        except (OSError, ValueError, IndexError, pyarrow.ArrowException) as error:  # also if the file has changed
            yield Encoded(f"{entry.shown}#{number}", None, f"{entry.shown} is damaged: {reason(error)}")


def _row(path: str, value: Any) -> Encoded:
    data = value.get("bytes") if isinstance(value, dict) else value
    return Encoded(path, data) if isinstance(data, bytes) else Encoded(path, None, f"{path} has no bytes")
