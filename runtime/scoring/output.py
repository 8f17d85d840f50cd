"""The output of scoring: one Parquet file per partition, written atomically. docs/score.md describes the columns."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge._version import __version__
from twincar_edge.errors import InputError, require
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.scoring.file_systems import EXTRA
from twincar_edge.runtime.scoring.storage import join, storage_of

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = 1
ROWS_AT_ONCE = 1000  # in a row group; 5 MB with embeddings of 1280 numbers
_COUNTS = b"twincar_edge.score"  # footer key of a partition's run and counts

Row = dict[str, Any]


@dataclass
class Counts:
    """Counts over partitions: rows, rows with an error, and answers by level and by make."""

    rows: int = 0
    errors: int = 0
    levels: Counter[str] = field(default_factory=Counter)
    makes: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Add a row."""
        self.rows += 1
        if row.get("error") is not None:
            self.errors += 1
            return
        self.levels[row["level"]] += 1
        if row["make"] is not None:
            self.makes[row["make"]] += 1

    def merge(self, other: Counts) -> None:
        """Add the counts of another partition."""
        self.rows += other.rows
        self.errors += other.errors
        self.levels.update(other.levels)
        self.makes.update(other.makes)

    def to_json(self) -> str:
        """Return the counts as JSON."""
        return json.dumps({"rows": self.rows, "errors": self.errors, "levels": self.levels, "makes": self.makes})

    @classmethod
    def from_json(cls, text: str | bytes) -> Counts:
        """Parse the output of `to_json`."""
        data = json.loads(text)
        return cls(int(data["rows"]), int(data["errors"]), Counter(data["levels"]), Counter(data["makes"]))


def schema(embedding_size: int | None) -> pyarrow.Schema:
    """Return the schema of partitions, with a column for embeddings of this size unless it is None."""
    pa: Any = require("pyarrow", EXTRA)
    constant = pa.dictionary(pa.int8(), pa.string())
    fields = [
        ("path", pa.string()),
        ("level", pa.string()),
        ("name", pa.string()),
        ("make", pa.string()),
        ("model", pa.string()),
        ("body_type", pa.string()),
        ("year", pa.int32()),
        ("probability", pa.float64()),
        ("familiarity", pa.float64()),
        ("top5", pa.list_(pa.struct([("name", pa.string()), ("probability", pa.float64())]))),
        ("visit_id", pa.string()),
        ("vehicle_type", pa.string()),
        ("direction", pa.string()),
        ("crops", pa.int32()),
        ("first_time_s", pa.float64()),
        ("last_time_s", pa.float64()),
        ("first_frame", pa.int64()),
        ("last_frame", pa.int64()),
        ("best_frame", pa.int64()),
        ("box_xyxy", pa.list_(pa.int32())),
        ("model_sha256", constant),
        ("twincar_version", constant),
        ("schema_version", pa.int32()),
        ("error", pa.string()),
    ]
    if embedding_size is not None:
        fields.insert(-4, ("embedding", pa.list_(pa.float32(), embedding_size)))
    return pa.schema(fields)


def image_row(path: str, prediction: Prediction, embedding: NDArray[np.float32] | None) -> Row:
    """Return the row of an image: the same values as `classify` writes."""
    return {"path": path, **prediction.to_dict(), "embedding": embedding}


def visit_row(path: str, event: Event) -> Row:
    """Return the row of a vehicle's visit in a video, from its `end` event."""
    names = (
        "level", "name", "make", "model", "body_type", "year", "probability", "familiarity", "vehicle_type",
        "direction", "crops", "first_time_s", "last_time_s", "first_frame", "last_frame", "best_frame", "box_xyxy",
    )  # fmt: skip
    row = {name: getattr(event, name) for name in names}
    return {"path": path, "visit_id": event.id, "top5": [guess.model_dump() for guess in event.top5], **row}


def error_row(path: str, problem: str) -> Row:
    """Return the row of a file that could not be read."""
    return {"path": path, "error": problem}


class PartitionWriter:
    """Encodes the rows of a partition in memory, and writes them as one file at the end.

    Attributes:
        counts: the counts of the rows so far.
    """

    def __init__(self, model_sha256: str, embedding_size: int | None) -> None:
        """Prepare the encoder; all rows share the model's digest."""
        pa: Any = require("pyarrow", EXTRA)
        parquet: Any = require("pyarrow.parquet", EXTRA)
        self.counts = Counts()
        self._schema = schema(embedding_size)
        self._model_sha256 = model_sha256
        self._rows: list[Row] = []
        self._buffer = pa.BufferOutputStream()
        self._writer = parquet.ParquetWriter(self._buffer, self._schema, compression="zstd")

    def add(self, row: Row) -> None:
        """Add a row."""
        self.counts.add(row)
        self._rows.append(row)
        if len(self._rows) == ROWS_AT_ONCE:
            self._flush()

    def write(self, path: str, run: str) -> None:
        """Write the file, with the id of its run.

        Raises:
            InputError: the file cannot be written.
        """
        self._flush()
        self._writer.add_key_value_metadata(
            {_COUNTS.decode(): json.dumps({"run": run, "counts": self.counts.to_json()})}
        )
        self._writer.close()
        storage_of(path).write(path, self._buffer.getvalue().to_pybytes())

    def _flush(self) -> None:
        if not self._rows:
            return
        pa: Any = require("pyarrow", EXTRA)
        shared = {
            "model_sha256": self._model_sha256,
            "twincar_version": __version__,
            "schema_version": SCHEMA_VERSION,
        }
        columns = [
            pa.array(
                [shared[name]] * len(self._rows) if name in shared else [row.get(name) for row in self._rows], kind
            )
            for name, kind in zip(self._schema.names, self._schema.types, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows = []


def partition_path(output: str, number: int) -> str:
    """Return the path of a partition."""
    return join(output, f"part-{number:06d}.parquet")


def partition_number(name: str) -> int | None:
    """Return the number of the partition with this file name; None for any other name."""
    found = re.fullmatch(r"part-(\d{6,})\.parquet", name)
    return None if found is None else int(found[1])


def read_counts(path: str, run: str) -> Counts | None:
    """Return the counts of a partition; None if the file is missing, incomplete, or of another run."""
    pyarrow = require("pyarrow", EXTRA)
    parquet: Any = require("pyarrow.parquet", EXTRA)
    try:
        with storage_of(path).open(path) as opened, parquet.ParquetFile(opened) as file:
            found = json.loads((file.metadata.metadata or {})[_COUNTS])
        return Counts.from_json(found["counts"]) if found["run"] == run else None
    except (InputError, OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException):
        return None
