"""The CSV sink, and the columns of an event."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twincar_edge.csv_lines import csv_line
from twincar_edge.runtime.events import ClassifierRecord, Event
from twincar_edge.runtime.sinks.appending import AppendedFile
from twincar_edge.runtime.sinks.base import Crop, Sink

_TOP = 5
# Fields of an event that need more than one cell, with these cells.
_PARTS: dict[str, Sequence[str]] = {
    "top5": [f"top{rank}_{part}" for rank in range(1, _TOP + 1) for part in ("name", "probability")],
    "box_xyxy": ["box_left", "box_top", "box_right", "box_bottom"],
    "classifier": [f"classifier_{part}" for part in ClassifierRecord.model_fields],
}
COLUMNS: tuple[str, ...] = tuple(cell for field in Event.model_fields for cell in _PARTS.get(field, [field]))


def csv_header() -> str:
    """Return the header line."""
    return csv_line(COLUMNS)


def csv_row(event: Event) -> str:
    """Return an event as one line of CSV, in the order of `COLUMNS`."""
    return csv_line([cell.isoformat() if hasattr(cell, "isoformat") else cell for cell in cells(event)])


def cells(event: Event) -> list[Any]:
    """Return an event's values, in the order of `COLUMNS`."""
    found: list[Any] = []
    for field in Event.model_fields:
        value = getattr(event, field)
        if field == "top5":
            guesses = [part for guess in value[:_TOP] for part in (guess.name, guess.probability)]
            found += guesses + [None] * (2 * _TOP - len(guesses))
        elif field == "classifier":
            found += [getattr(value, part) for part in ClassifierRecord.model_fields]
        elif field == "deciding_frames":
            found.append(" ".join(map(str, value)))
        elif field == "course":
            found.append("; ".join(f"{lead.frame} {lead.probability:g} {lead.name}" for lead in value))
        elif field == "box_xyxy":
            found += value
        else:
            found.append(value)
    return found


class CsvFile(Sink):
    """Appends each event to a CSV file as one row."""

    def __init__(self, path: Path) -> None:
        """Append to `path`; a file of events with other columns is renamed and kept."""
        self._file = AppendedFile(path, COLUMNS[0].encode("utf-8"), csv_header().encode("utf-8"))

    def open(self) -> None:
        """Open the file.

        Raises:
            InputError: the file is not writable, or holds something else.
        """
        self._file.open()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write a row.

        Raises:
            DeliveryError: the file cannot be written now (disk full).
        """
        self._file.append(csv_row(event).encode("utf-8"))
