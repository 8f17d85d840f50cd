"""Exports visits to Parquet: the columns of the CSV file, with types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.errors import require
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.csv import COLUMNS, cells

if TYPE_CHECKING:
    import pyarrow

_TIMES = ("started_at", "ended_at")
_FLAGS = tuple(name for name, field in Event.model_fields.items() if field.annotation is bool)
_WHOLE = (
    "schema_version", "year", "crops", "first_frame", "last_frame", "best_frame", "box_left", "box_top", "box_right",
    "box_bottom",
)  # fmt: skip
_REAL = ("probability", "familiarity", "first_time_s", "last_time_s")


def write_parquet(path: Path, batches: Iterable[Sequence[Event]]) -> None:
    """Write events as rows of a new file `path`.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    require("pyarrow", "bench")
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema()
    with parquet.ParquetWriter(path, schema) as writer:
        for events in batches:
            rows = [dict(zip(COLUMNS, cells(event), strict=True)) for event in events]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    def kind(column: str) -> pyarrow.DataType:
        if column in _TIMES:
            return pa.timestamp("us", tz="UTC")
        if column in _FLAGS:
            return pa.bool_()
        if column in _WHOLE:
            return pa.int64()
        return pa.float64() if column in _REAL or column.endswith("_probability") else pa.string()

    return pa.schema([(column, kind(column)) for column in COLUMNS])
