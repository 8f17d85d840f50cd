"""The sink that shows the newest visits as a table on a terminal."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import UNKNOWN, certainty
from twincar_edge.runtime.sinks.base import Crop, Sink
from twincar_edge.terminal import new_table
from twincar_edge.wording import percent

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("When", "left"),
    ("Vehicle", "left"),
    ("Probability", "right"),
    ("Direction", "left"),
    ("Crops", "right"),
    ("Or", "left"),
)


class LiveTable(Sink):
    """Shows the newest visits as a live table on a terminal."""

    def __init__(self, title: str, rows: int = 20) -> None:
        """Show at most `rows` visits under `title`."""
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._visits: deque[Event] = deque(maxlen=rows)
        self._live = Live(self._table(), console=Console(), auto_refresh=False)

    def open(self) -> None:
        """Start the live display."""
        self._live.start(refresh=True)

    def close(self) -> None:
        """Stop the live display; the table remains on screen."""
        self._live.stop()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Add a row."""
        self._visits.append(event)
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        from rich.markup import escape

        table = new_table(self._title)
        for heading, justify in _COLUMNS:
            table.add_column(heading, justify=justify)
        for visit in self._visits:
            when = visit.image or f"{visit.first_time_s:.1f} to {visit.last_time_s:.1f} s"
            rejected = visit.level == UNKNOWN
            others = [guess for guess in visit.top5 if guess.name != visit.name]
            second = f"{others[0].name} {percent(others[0].probability, 1)}" if others else ""
            table.add_row(
                escape(when),
                escape(visit.name if visit.vehicle_type in (None, "car") else f"{visit.name} ({visit.vehicle_type})"),
                "" if rejected else certainty(visit, 1),
                visit.direction.replace("_", " "),
                str(visit.crops),
                escape(certainty(visit, 1) if rejected else second),
            )
        return table
