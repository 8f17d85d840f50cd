"""What parity found, as data, as JSON and as Markdown."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from twincar_edge.errors import GateError
from twincar_edge.manifest import DataRecord, ParityRecord

PARITY_SCHEMA_VERSION: Literal[1] = 1
Share = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Magnitude = Annotated[float, Field(ge=0)]

# What a report calls each side.
TITLES = {"pytorch": "PyTorch", "fp32": "FP32", "int8": "INT8"}
COLUMNS = ("Model", "Top-1", "Top-5", "Agrees", "Where sure", "Max Δ", "Mean Δ", "Limits")
FLIP_COLUMNS = ("Image", "Is", "Was answered", "Now answered")
SURE_MARGIN = 0.5  # between the reference's two best probabilities: above it, the model itself is not in doubt


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParityLimits(_Part):
    """How much may be lost. Shares are between 0 and 1: a drop of 0.005 is half a point.

    `fp32_logit_difference` bounds FP32 against PyTorch: the largest difference of a logit, relative to the reference's
    largest absolute logit. Rounding in another order gives about 1e-6; a wrong graph, a hundred thousand times that. No
    limit on agreement stands beside it, because this one implies it: no answer changes where the two best logits are
    further apart than twice the difference. INT8 does change answers that are nearly ties, so it is judged by accuracy,
    by agreement, and by agreement where FP32 is sure (its two best probabilities more than 0.5 apart).
    """

    fp32_logit_difference: Limit = 1e-3
    int8_top1_drop: Share = 0.005
    int8_top5_drop: Share = 0.003
    int8_agreement: Share = 0.97
    int8_sure_agreement: Share = 0.998


class Flip(_Part):
    """An image whose answer changed: what it is, and each side's answer with its probability."""

    image: str
    label: str
    reference: str
    reference_probability: Share
    answer: str
    probability: Share


class Comparison(_Part):
    """One side (`subject`) against the one that it was made from, `against`. Shares are between 0 and 1.

    `sure_agreement` counts the `sure_images` where the reference is sure, and is None where there are none.
    """

    subject: str
    against: str
    top1: Share
    top5: Share
    top1_reference: Share
    top5_reference: Share
    agreement: Share
    sure_images: int = Field(ge=0)
    sure_agreement: Share | None
    max_abs_logit_difference: Magnitude
    mean_abs_logit_difference: Magnitude
    max_abs_logit_reference: Magnitude
    flips: tuple[Flip, ...]

    def record(self, images: int) -> ParityRecord:
        """Return what the subject's manifest keeps."""
        shared = self.model_dump(include=set(ParityRecord.model_fields))
        return ParityRecord(images=images, **shared)


class Breach(_Part):
    """A limit that `subject` missed, in words with the figures."""

    subject: str
    text: str


class ParityReport(_Part):
    """What parity showed: on which images, each comparison, the limits, and which of them were missed."""

    schema_version: Literal[1] = PARITY_SCHEMA_VERSION
    name: str
    data: DataRecord
    comparisons: tuple[Comparison, ...]
    limits: ParityLimits
    breaches: tuple[Breach, ...]

    @property
    def passed(self) -> bool:
        """Say whether every limit was met."""
        return not self.breaches

    def failed(self, subject: str) -> bool:
        """Say whether `subject` ("fp32" or "int8") missed a limit."""
        return any(breach.subject == subject for breach in self.breaches)

    def comparison(self, subject: str) -> Comparison:
        """Return the comparison of `subject` with the side that it was made from."""
        return next(comparison for comparison in self.comparisons if comparison.subject == subject)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table's cells: `COLUMNS` for each side, the reference of the first comparison first."""
        first = self.comparisons[0]
        rows = [(TITLES[first.against], f"{first.top1_reference:.2%}", f"{first.top5_reference:.2%}", *["–"] * 5)]
        for side in self.comparisons:
            sure = "–" if side.sure_agreement is None else f"{side.sure_agreement:.2%} of {side.sure_images}"
            rows.append(
                (
                    TITLES[side.subject],
                    f"{side.top1:.2%}",
                    f"{side.top5:.2%}",
                    f"{side.agreement:.2%}",
                    sure,
                    f"{side.max_abs_logit_difference:.2g}",
                    f"{side.mean_abs_logit_difference:.2g}",
                    "missed" if self.failed(side.subject) else "met",
                )
            )
        return rows

    def to_json(self) -> str:
        """Return the report as JSON; `ParityReport.model_validate_json` reads it again."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown: the verdict, the table, and every answer that changed."""
        images = f"{self.data.images} images of {self.data.name}"
        lines = [f"# Parity of {self.name}", ""]
        if self.passed:
            lines += [f"Every limit is met on {images}.", ""]
        else:
            lines += [f"Missed on {images}:", "", *(f"- {breach.text}" for breach in self.breaches), ""]
        lines += [*_table(COLUMNS, self.rows()), ""]
        limits = self.limits
        lines += [
            "Each model is compared with the one above it; Δ is the difference of a logit. "
            f"Sure: the reference's two best probabilities are more than {SURE_MARGIN} apart. "
            f"Limits: FP32 logits within {limits.fp32_logit_difference:g} of the largest; "
            f"INT8 top-1 falls by at most {limits.int8_top1_drop:.2%} and top-5 by {limits.int8_top5_drop:.2%}; "
            f"it agrees on {limits.int8_agreement:.2%} or more, on {limits.int8_sure_agreement:.2%} where FP32 is sure."
        ]
        for side in self.comparisons:
            lines += ["", f"## Answers that changed from {TITLES[side.against]} to {TITLES[side.subject]}", ""]
            lines += _table(FLIP_COLUMNS, [_flip_row(flip) for flip in side.flips]) if side.flips else ["None."]
        return "\n".join(lines) + "\n"


class ParityError(GateError):
    """A limit of parity was missed. `report` has the whole of it."""

    def __init__(self, report: ParityReport, outcome: str) -> None:
        """Put all breaches into one line; `outcome` says what became of the files."""
        count, images = len(report.breaches), report.data.images
        super().__init__(
            f"{report.name} misses {count} limit{'s' * (count != 1)} of parity on {images} image{'s' * (images != 1)}: "
            f"{'; '.join(breach.text for breach in report.breaches)}; {outcome}"
        )
        self.report = report


def _flip_row(flip: Flip) -> tuple[str, ...]:
    return (
        flip.image,
        flip.label,
        f"{flip.reference} ({flip.reference_probability:.2f})",
        f"{flip.answer} ({flip.probability:.2f})",
    )


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [columns, ("---",) * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
