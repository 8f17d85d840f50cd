"""What a search for an INT8 file tried, as data, as JSON and as Markdown. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from twincar_edge.export.parity.markdown import points
from twincar_edge.records import Record


class SearchRow(Record):
    """A candidate: its choices, what it lost against FP32, and how fast it is where that was measured.

    Shares are between 0 and 1; `latency_ms` is the median at batch 1, `speedup` FP32's by it in the same run. `missed`
    are the limits that it misses, in words.
    """

    name: str
    choices: dict[str, Any]
    size_bytes: Annotated[int, Field(ge=1)]
    top1: float
    top5: float
    top1_drop: float
    top5_drop: float
    agreement: float
    sure_agreement: float | None
    mean_abs_logit_difference: float
    latency_ms: float | None = None
    speedup: float | None = None
    missed: tuple[str, ...] = ()
    chosen: bool = False

    @property
    def passed(self) -> bool:
        """Say whether it keeps to every limit."""
        return not self.missed


class SearchReport(Record):
    """Every candidate in the order in which it was tried, and the layers by their harm where that was asked.

    `harm` maps the weights of a layer to the mean squared change of the logits when that layer alone is INT8.
    """

    rows: tuple[SearchRow, ...]
    fp32_latency_ms: float | None
    harm: dict[str, float] = Field(default_factory=dict)

    def to_json(self) -> str:
        """Return the report as JSON; `SearchReport.model_validate_json` reads it again."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the table of candidates, and the layers that hurt most."""
        columns = ("INT8 candidate", "MB", "Top-1", "Δ", "Top-5", "Δ", "Agrees", "Where sure", "ms", "× FP32", "Limits")
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in self.rows:
            cells = (
                f"**{row.name}**" if row.chosen else row.name,
                f"{row.size_bytes / 1e6:.1f}",
                f"{row.top1:.2%}",
                points(-row.top1_drop),
                f"{row.top5:.2%}",
                points(-row.top5_drop),
                f"{row.agreement:.2%}",
                "–" if row.sure_agreement is None else f"{row.sure_agreement:.2%}",
                "–" if row.latency_ms is None else f"{row.latency_ms:.2f}",
                "–" if row.speedup is None else f"{row.speedup:.2f}",
                "met" if row.passed else "missed",
            )
            lines.append("| " + " | ".join(cells) + " |")
        if self.harm:
            worst = sorted(self.harm.items(), key=lambda entry: -entry[1])[:10]
            lines += ["", "Layers by what they do to the logits when they alone are INT8 (mean squared change):", ""]
            lines += [f"- {weight}: {harm:.2g}" for weight, harm in worst]
        return "\n".join(lines)
