"""Where visits go: each sink is a context manager with one method, `write`."""

from __future__ import annotations

import re
import sys
from collections import deque
from datetime import UTC
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.images import write_image
from twincar_edge.runtime.events import Event

if TYPE_CHECKING:
    from rich.table import Table


class Sink(Protocol):
    """Takes visits, in the order in which they end."""

    def __enter__(self) -> Self:
        """Open what the sink writes to."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, however the run ends."""

    def write(self, visit: Event, crop_bgr: NDArray[np.uint8]) -> None:
        """Take one visit and its best crop, uint8 [h, w, 3]."""


class JsonLines:
    """Writes each visit as one line of JSON, flushed at once: to a stream, or appended to a file."""

    def __init__(self, target: Path | TextIO | None = None) -> None:
        """Take a path, an open text stream, or nothing for standard output."""
        self._target = target
        self._stream: TextIO

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            InputError: it cannot be written.
        """
        if isinstance(self._target, Path):
            try:
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._target.open("a", encoding="utf-8")
            except OSError as error:
                raise InputError(f"cannot write {self._target}: {error.strerror}") from error
        else:
            self._stream = self._target or sys.stdout
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file; a stream that was given stays open."""
        if isinstance(self._target, Path):
            self._stream.close()

    def write(self, visit: Event, crop_bgr: NDArray[np.uint8]) -> None:
        """Write a line.

        Raises:
            InputError: the file cannot be written any more (no space).
            BrokenPipeError: whoever read the stream has gone.
        """
        try:
            self._stream.write(visit.to_json() + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"cannot write {self._target or 'standard output'}: {error.strerror}") from error


class CropSaver:
    """Saves each visit's best crop as a JPEG, named by time and id; a class name never becomes a file name."""

    def __init__(self, folder: Path) -> None:
        """Save into `folder`, which is made when it is needed."""
        self._folder = folder

    def __enter__(self) -> Self:
        """Make the folder.

        Raises:
            InputError: it cannot be made.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {self._folder}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def write(self, visit: Event, crop_bgr: NDArray[np.uint8]) -> None:
        """Write the picture, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        write_image(self._folder / crop_name(visit), crop_bgr)


def crop_name(visit: Event) -> str:
    """Return the file name of a visit's crop: `20250131T142315.250Z-<id>.jpg`."""
    started = visit.started_at.astimezone(UTC)
    return f"{started:%Y%m%dT%H%M%S}.{started.microsecond // 1000:03d}Z-{re.sub(r'[^A-Za-z0-9-]', '_', visit.id)}.jpg"


_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("when", "left"),
    ("vehicle", "left"),
    ("probability", "right"),
    ("direction", "left"),
    ("crops", "right"),
    ("or", "left"),
)


class LiveTable:
    """Shows the newest visits as a table that stays in place on a terminal."""

    def __init__(self, title: str, rows: int = 20) -> None:
        """Show at most `rows` visits under `title`."""
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._visits: deque[Event] = deque(maxlen=rows)
        self._live = Live(self._table(), console=Console(), auto_refresh=False)

    def __enter__(self) -> Self:
        """Take over the terminal's last lines."""
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the table as it is and give the terminal back."""
        self._live.stop()

    def write(self, visit: Event, crop_bgr: NDArray[np.uint8]) -> None:
        """Add a row."""
        self._visits.append(visit)
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(self._title), title_justify="left")
        for heading, justify in _COLUMNS:
            table.add_column(heading, justify=justify)
        for visit in self._visits:
            when = visit.image or f"{visit.first_time_s:.1f} to {visit.last_time_s:.1f} s"
            others = [guess for guess in visit.top5 if guess.name != visit.name]  # all of them, where it is "unknown"
            table.add_row(
                escape(when),
                escape(visit.name),
                f"{visit.probability:.1%}",
                visit.direction.replace("_", " "),
                str(visit.crops),
                f"{escape(others[0].name)} {others[0].probability:.1%}" if others else "",
            )
        return table
