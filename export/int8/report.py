"""The report of an INT8 search, as data, JSON and Markdown. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from twincar_edge.export.parity.markdown import points
from twincar_edge.markdown import table
from twincar_edge.records import Record


class SearchRow(Record):
    """A candidate: its settings, its comparison with FP32, and its latency if it was measured.

    Shares are from 0 to 1. `latency_ms` is the median at batch 1, `speedup` the ratio of FP32's latency to it in the
    same run. `missed` describes the limits that are not met.
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
        """Return whether all limits are met."""
        return not self.missed


class SearchReport(Record):
    """All candidates in the order of their trials, and the harm of each layer if it was measured.

    `harm` maps the weights of a layer to the mean squared change of the logits when only that layer is INT8.
    """

    rows: tuple[SearchRow, ...]
    fp32_latency_ms: float | None
    harm: dict[str, float] = Field(default_factory=dict)

    def to_json(self) -> str:
        """Return the report as JSON, which `SearchReport.model_validate_json` reads."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the table of candidates, and the layers with the largest harm."""
        columns = (
            "INT8 candidate", "MB", "Top-1", "Δ", "Top-5", "Δ", "Agreement", "Where confident", "ms", "× FP32", "Limits"
        )  # fmt: skip
        rows = [
            (
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
                "met" if row.passed else "not met",
            )
            for row in self.rows
        ]
        lines = table(columns, rows)
        if self.harm:
            worst = sorted(self.harm.items(), key=lambda entry: -entry[1])[:10]
            lines += ["", "Mean squared change of the logits when only one layer is INT8:", ""]
            lines += [f"- {weight}: {harm:.2g}" for weight, harm in worst]
        return "\n".join(lines)
