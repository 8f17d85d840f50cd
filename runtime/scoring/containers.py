"""Encoded images out of tars and Parquet files, one after the other, in bounded memory."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from twincar_edge.errors import require
from twincar_edge.files import as_text
from twincar_edge.images import MAX_IMAGE_BYTES
from twincar_edge.runtime.scoring.entries import Entry
from twincar_edge.runtime.scoring.storage import EXTRA, reason, storage_of
from twincar_edge.runtime.sources.images import is_image_name

ROWS_AT_ONCE = 64  # encoded images of a Parquet file in memory


class Encoded(NamedTuple):
    """An encoded image and what its row calls it, or why there is none."""

    path: str
    data: bytes | None
    problem: str | None = None


def rows_of_tar(entry: Entry) -> Iterator[Encoded]:
    """Yield the images of a tar, such as a shard of WebDataset, in its order; `shard.tar#name.jpg`.

    What is no image, such as a label, is left out. A tar that is cut off gives its images before that, and an error.

    Raises:
        InputError: the file cannot be opened.
    """
    opened = storage_of(entry.path).open(entry.path)
    with opened:
        try:
            with tarfile.open(fileobj=opened, mode="r|*", errorlevel=1) as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # or it keeps all that it has seen
                    if member.isfile() and is_image_name(member.name.rpartition("/")[2]):
                        yield _member(archive, member, f"{entry.shown}#{as_text(member.name)}")
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
            yield Encoded(entry.shown, None, f"{entry.shown} cannot be read on as a tar: {reason(error)}")


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Encoded:
    if member.size > MAX_IMAGE_BYTES:
        return Encoded(path, None, f"{path} is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    file = archive.extractfile(member)
    assert file is not None, "a regular file"
    return Encoded(path, file.read())


def rows_of_parquet(entry: Entry) -> Iterator[Encoded]:
    """Yield the images of a row group of a Parquet file, as bytes or as Hugging Face's {bytes, path}: `file.parquet#7`.

    Raises:
        InputError: the file cannot be opened.
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
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            yield Encoded(f"{entry.shown}#{number}", None, f"{entry.shown} is damaged: {reason(error)}")


def _row(path: str, value: Any) -> Encoded:
    data = value.get("bytes") if isinstance(value, dict) else value
    return Encoded(path, None, f"{path} holds no bytes") if data is None else Encoded(path, data)
