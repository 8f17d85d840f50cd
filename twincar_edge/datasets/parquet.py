"""Parquet as the Hugging Face hub stores image data sets: a column `image` of {bytes, path} and a column `label`.

Images are read on demand, one row group at a time. A cache of fixed size keeps the last row groups, because neighbors
are usually read next.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twincar_edge.datasets.dataset import Dataset, Sample
from twincar_edge.datasets.table import checked_name
from twincar_edge.errors import InputError, require
from twincar_edge.images import ImageError
from twincar_edge.labels import ClassMapping

KEPT_BYTES = 128 * 2**20
MOST_GROUP_BYTES = 2**30  # of the images of one row group, which are read together
_ROWS_AT_ONCE = 8


def is_parquet(path: Path) -> bool:
    """Return whether `path` is a Parquet file, or a folder with Parquet files in it or in its `data/`."""
    return bool(_shards(path))


def read_parquet(path: Path, class_mapping: Path | None = None) -> Dataset:
    """Open one Parquet file, or the training shards (`train-*.parquet`) of a folder or of its `data/`.

    Class names come from the schema's Hugging Face metadata, or from `class_mapping`, which takes precedence.

    Raises:
        InputError: a file is not Parquet, lacks a column, has a label outside the classes, or no class names are known.
        MissingExtraError: pyarrow is not installed.
    """
    shards = _training_shards(path)
    classes = None if class_mapping is None else ClassMapping.from_json(class_mapping)
    samples: list[Sample] = []
    for shard in shards:
        names, found = _read_shard(shard)
        if class_mapping is None and shard != shards[0] and names != classes:
            raise InputError(f"{shard} has other classes than {shards[0].name}")
        classes = classes or names
        samples += found
    if classes is None:
        raise InputError(f"{shards[0]} does not name its classes: give a class mapping")
    path = path.resolve()
    return Dataset(path.stem if path.is_file() else path.name, classes, tuple(samples))


@dataclass(frozen=True)
class ParquetImage:
    """An image in a Parquet file: row `row` of row group `row_group`, both counted from 0."""

    path: Path
    row_group: int
    row: int

    def read_bytes(self) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: the file cannot be read, or the row holds no image.
        """
        images = _KEPT.images(self.path, self.row_group)
        data = images[self.row] if self.row < len(images) else None
        if data is None:
            raise ImageError("missing", f"{self.path} holds no bytes in row {self.row} of row group {self.row_group}")
        return data


class _RowGroups:
    """A thread-safe cache of encoded images: the last row groups that were read, about `KEPT_BYTES` at most."""

    def __init__(self) -> None:
        self.kept_bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, int], list[bytes | None]] = OrderedDict()

    def images(self, path: Path, row_group: int) -> list[bytes | None]:
        with self._lock:
            images = self._kept.get((path, row_group))
            if images is None:
                images = _read_row_group(path, row_group)
                self._kept[path, row_group] = images
                self.kept_bytes += _size(images)
                while len(self._kept) > 1 and self.kept_bytes > KEPT_BYTES:
                    self.kept_bytes -= _size(self._kept.popitem(last=False)[1])
            self._kept.move_to_end((path, row_group))
            return images


def _size(images: list[bytes | None]) -> int:
    return sum(len(image) for image in images if image is not None)


_KEPT = _RowGroups()


def _read_row_group(path: Path, row_group: int) -> list[bytes | None]:
    pyarrow = require("pyarrow", "bench")
    try:
        with _open(path) as file:
            images: list[bytes | None] = []
            total = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, [row_group], ["image"], use_threads=False):
                found = [None if image is None else image["bytes"] for image in batch.column(0).to_pylist()]
                total += _size(found)  # grows past the file's size where a dictionary holds each image once
                if total > MOST_GROUP_BYTES:
                    limit = f"{MOST_GROUP_BYTES >> 30} GiB"
                    raise ImageError("unreadable", f"{path}: row group {row_group} has more than {limit} of images")
                images += found
            return images
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ValueError: text that is not UTF-8
        raise ImageError("unreadable", f"cannot read {path}: {_first_line(error)}") from error


def _read_shard(path: Path) -> tuple[ClassMapping | None, list[Sample]]:
    pyarrow = require("pyarrow", "bench")
    try:
        with _open(path) as file:
            schema = file.schema_arrow
            image = schema.field("image").type if "image" in schema.names else None
            if image is None or not has_image_bytes(image) or "label" not in schema.names:
                found = ", ".join(f"{field.name} ({field.type})" for field in schema)
                raise InputError(f"{path} needs the columns image (bytes, path) and label, found {found[:120]}")
            if file.metadata.num_rows > path.stat().st_size:
                raise InputError(f"{path} claims {file.metadata.num_rows} rows, more than it has bytes")
            name = checked_name(path.name, str(path.parent))
            samples, row = [], 0
            for group in range(file.num_row_groups):
                labels = file.read_row_group(group, columns=["label"], use_threads=False).column("label").to_pylist()
                for place, label in enumerate(labels):
                    if not isinstance(label, int) or label < 0:
                        raise InputError(f"{path} row {row} has no label")
                    samples.append(Sample(f"{name}#{row}", label, ParquetImage(path, group, place)))
                    row += 1
            return _class_names(schema.metadata or {}), samples
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {_first_line(error)}") from error


def has_image_bytes(column: Any) -> bool:
    """Return whether a column's type is Hugging Face's {bytes, path}, in which `bytes` is an encoded image."""
    types = require("pyarrow.types", "bench")
    if not types.is_struct(column) or column.get_field_index("bytes") < 0:
        return False
    return is_bytes(column.field("bytes").type)


def is_bytes(column: Any) -> bool:
    """Return whether a column's type is bytes."""
    types = require("pyarrow.types", "bench")
    return bool(types.is_binary(column) or types.is_large_binary(column))


def _open(path: Path) -> Any:
    return require("pyarrow.parquet", "bench").ParquetFile(path, memory_map=True)


def _class_names(metadata: dict[bytes, bytes]) -> ClassMapping | None:
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return ClassMapping(tuple(names)) if isinstance(names, list) else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _training_shards(path: Path) -> list[Path]:
    shards = _shards(path)
    if not shards:
        raise InputError(f"{path} is neither a .parquet file nor a folder of such files")
    if path.is_file():
        return shards
    by_split: dict[str, list[Path]] = {}
    for shard in shards:
        by_split.setdefault(shard.name.split("-")[0], []).append(shard)
    if "train" in by_split:
        return by_split["train"]
    if len(by_split) > 1:
        raise InputError(f"{path} has Parquet files of {', '.join(by_split)}, but no train: open one of them")
    return shards


def _shards(path: Path) -> list[Path]:
    if path.suffix.lower() == ".parquet" and path.is_file():
        return [path]
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
