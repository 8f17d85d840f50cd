"""The parity report: limits, comparisons and breaches, as data, JSON and Markdown. `plot.py` draws it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twincar_edge.errors import GateError
from twincar_edge.export.parity.comparison import Comparison
from twincar_edge.export.parity.markdown import changes_markdown, figures_table
from twincar_edge.export.parity.names import title
from twincar_edge.manifest import DataRecord
from twincar_edge.markdown import table
from twincar_edge.records import Record, Settings, Share
from twincar_edge.wording import counted

PARITY_SCHEMA_VERSION: Literal[2] = 2
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]

COLUMNS = ("Model", "Against", "Top-1", "Top-5", "Agreement", "Where confident", "Max Δ", "Limits")


class ParityLimits(Settings):
    """The parity limits. Shares are from 0 to 1: a drop of 0.005 is half a percentage point.

    `fp32_logit_difference` limits FP32 against PyTorch: the largest difference of a logit, relative to the reference's
    largest absolute logit. Rounding gives about 1e-6, a wrong graph about 0.1. FP32 needs no limit on agreement: an
    answer cannot change if the two best logits differ by more than twice that difference. `provider_logit_difference`
    is the same limit for an FP32 file on another execution provider. Some of these round the factors of products: TF32
    to 11 bits, bfloat16 to 8 bits, which changes answers.

    FP16 and INT8 change near ties, so their limits apply to accuracy, to agreement, and to agreement where the
    reference is confident (its two best probabilities differ by more than 0.5). `embedding_cosine` is the lower limit
    of the mean cosine similarity of embeddings, if both sides have them.
    """

    fp32_logit_difference: Limit = 1e-3
    provider_logit_difference: Limit = 1e-2
    top1_drop: Share = 0.005
    top5_drop: Share = 0.003
    agreement: Share = 0.97
    sure_agreement: Share = 0.998
    embedding_cosine: Share = 0.97

    def sentence(self) -> str:
        """Return the limits as text."""
        return (
            f"Limits: FP32 logits differ by at most {self.fp32_logit_difference:g} of the reference's largest logit, "
            f"on another provider by {self.provider_logit_difference:g}. For other precisions, top-1 drops by at most "
            f"{100 * self.top1_drop:g} points and top-5 by {100 * self.top5_drop:g}; agreement is at least "
            f"{self.agreement:.2%}, and {self.sure_agreement:.2%} where the reference is confident. The mean cosine "
            f"similarity of embeddings is at least {self.embedding_cosine:g}."
        )


class Breach(Record):
    """A limit that `subject` does not meet, as text with the values."""

    subject: str
    text: str


class ParityReport(Record):
    """The result of a parity check: the images, the comparisons, the limits, and the limits that were not met."""

    schema_version: Literal[2] = PARITY_SCHEMA_VERSION
    name: str
    data: DataRecord
    comparisons: tuple[Comparison, ...]
    limits: ParityLimits
    breaches: tuple[Breach, ...]

    @property
    def passed(self) -> bool:
        """Return whether all limits are met."""
        return not self.breaches

    def failed(self, subject: str) -> bool:
        """Return whether a side does not meet a limit; a name without a provider ("int8") covers all providers."""
        return any(name == subject or name.startswith(f"{subject}@") for name in self._missing())

    def comparison(self, subject: str) -> Comparison:
        """Return the comparison of `subject` with its reference."""
        return next(comparison for comparison in self.comparisons if comparison.subject == subject)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of `COLUMNS` for each side; a reference without its own comparison precedes its first."""
        rows: list[tuple[str, ...]] = []
        shown = {side.subject for side in self.comparisons}
        missing = self._missing()
        for side in self.comparisons:
            if side.against not in shown:
                shown.add(side.against)
                accuracy = (f"{side.top1_reference:.2%}", f"{side.top5_reference:.2%}")
                rows.append((title(side.against), "–", *accuracy, *["–"] * 4))
            sure = "–" if side.sure_agreement is None else f"{side.sure_agreement:.2%} of {side.sure_images}"
            rows.append(
                (
                    title(side.subject),
                    title(side.against),
                    f"{side.top1:.2%}",
                    f"{side.top5:.2%}",
                    f"{side.agreement:.2%}",
                    sure,
                    f"{side.max_abs_logit_difference:.2g}",
                    "not met" if side.subject in missing else "met",
                )
            )
        return rows

    def to_json(self) -> str:
        """Return the report as JSON, which `ParityReport.model_validate_json` reads."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown: the verdict, the metrics with their meaning, and all changed answers."""
        images = f"{self.data.images} images of {self.data.name}"
        lines = [f"# Parity of {self.name}", ""]
        if self.passed:
            lines += [f"All limits are met on {images}.", ""]
        else:
            lines += [f"Limits not met on {images}:", "", *(f"- {breach.text}" for breach in self.breaches), ""]
        lines += [*table(COLUMNS, self.rows()), ""]
        lines += [f"Δ is the difference of a logit. {self.limits.sentence()}", "", "## Metrics", ""]
        lines += figures_table(self.comparisons)
        for comparison in self.comparisons:
            lines += ["", *changes_markdown(comparison, self.data.images)]
        return "\n".join(lines) + "\n"

    def _missing(self) -> set[str]:
        return {breach.subject for breach in self.breaches}


class ParityError(GateError):
    """A parity limit was not met. `report` is the full report."""

    def __init__(self, report: ParityReport, outcome: str) -> None:
        """Make a one-line message of all breaches; `outcome` is its last part, on the files."""
        limits, images = counted(len(report.breaches), "parity limit"), counted(report.data.images, "image")
        breaches = "; ".join(breach.text for breach in report.breaches)
        super().__init__(f"{report.name} does not meet {limits} on {images}: {breaches}; {outcome}")
        self.report = report
