"""The report on a model's accuracy on pictures degraded as by a camera, as data and as text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twincar_edge.export.parity.markdown import interval, points
from twincar_edge.manifest import Text
from twincar_edge.markdown import table
from twincar_edge.records import Record, Share

SCHEMA_VERSION: Literal[1] = 1
Change = Annotated[float, Field(ge=-1, le=1)]


class CameraFigures(Record):
    """The pictures under one condition: accuracies, and their change from the unchanged pictures.

    Intervals are those of the paired change, at 95%. All are shares.
    """

    name: Text
    top1: Share
    top1_change: Change
    top1_interval: tuple[Change, Change]
    top5: Share
    top5_change: Change
    top5_interval: tuple[Change, Change]


class CameraReport(Record):
    """A model on the pictures of a data set as they are (`top1`, `top5`), and under each of the `conditions`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Text
    dataset: Text
    images: int = Field(ge=1)
    top1: Share
    top5: Share
    conditions: tuple[CameraFigures, ...]

    def to_json(self) -> str:
        """Return the report as JSON; `CameraReport.model_validate_json` reads it again."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        rows = [("as it is", f"{self.top1:.2%}", "", f"{self.top5:.2%}", "")]
        for found in self.conditions:
            changes = [
                f"{points(change)} ({interval(low_high)})"
                for change, low_high in (
                    (found.top1_change, found.top1_interval),
                    (found.top5_change, found.top5_interval),
                )
            ]
            rows.append((found.name, f"{found.top1:.2%}", changes[0], f"{found.top5:.2%}", changes[1]))
        lines = [f"# As a camera sees it: {self.name}", "", f"{self.images} images of {self.dataset}.", ""]
        return "\n".join([*lines, *table(_COLUMNS, rows), "", *_EXPLANATION]) + "\n"


_COLUMNS = ("Pictures", "Top-1", "Change, points", "Top-5", "Change, points")
_EXPLANATION = (
    "Changes are against the same pictures as they are, in brackets with the 95% interval of the paired difference.",
    "Sizes are those of the shorter side. A tight box lacks a tenth of its width or height on each side; a shifted one",
    "is moved by a tenth of both. Motion blur is along the rows, in pixels of the model's input.",
)
