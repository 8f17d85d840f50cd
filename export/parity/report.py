"""The parity report: limits, comparisons and breaches, as data, JSON and Markdown. `plot.py` draws it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twincar_edge.errors import GateError
from twincar_edge.export.parity.comparison import Comparison
from twincar_edge.export.parity.markdown import changes_markdown, figures_table, table
from twincar_edge.export.parity.names import title
from twincar_edge.manifest import DataRecord
from twincar_edge.records import Record, Share

PARITY_SCHEMA_VERSION: Literal[2] = 2
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]

COLUMNS = ("Model", "Against", "Top-1", "Top-5", "Agrees", "Where sure", "Max Δ", "Limits")


class ParityLimits(Record):
    """How much may be lost. Shares are between 0 and 1: a drop of 0.005 is half a point.

    `fp32_logit_difference` bounds FP32 against PyTorch: the largest difference of a logit, relative to the reference's
    largest absolute logit. Rounding in another order gives about 1e-6; a wrong graph, a hundred thousand times that. No
    limit on agreement stands beside it, because this one implies it: no answer changes where the two best logits are
    further apart than twice the difference. `provider_logit_difference` bounds the same for an FP32 file on another
    execution provider, some of which round their factors: TF32 to 11 bits, bfloat16 to 8, which changes answers.

    FP16 and INT8 change answers that are nearly ties, so they are judged by accuracy, by agreement, and by agreement
    where the reference is sure (its two best probabilities more than 0.5 apart). `embedding_cosine` bounds the mean
    cosine of the embeddings of both, where both give them.
    """

    fp32_logit_difference: Limit = 1e-3
    provider_logit_difference: Limit = 1e-2
    top1_drop: Share = 0.005
    top5_drop: Share = 0.003
    agreement: Share = 0.97
    sure_agreement: Share = 0.998
    embedding_cosine: Share = 0.97

    def sentence(self) -> str:
        """Return the limits in words."""
        return (
            f"Limits: FP32 logits within {self.fp32_logit_difference:g} of the reference's largest, on another "
            f"provider within {self.provider_logit_difference:g}; of every other file, top-1 falls by at most "
            f"{100 * self.top1_drop:g} points and top-5 by {100 * self.top5_drop:g}, and it agrees on "
            f"{self.agreement:.2%} or more, on {self.sure_agreement:.2%} where the reference is sure. "
            f"Embeddings, where both sides give them, have a mean cosine of {self.embedding_cosine:g} or more."
        )


class Breach(Record):
    """A limit that `subject` missed, in words with the figures."""

    subject: str
    text: str


class ParityReport(Record):
    """What parity showed: on which images, each comparison, the limits, and which of them were missed."""

    schema_version: Literal[2] = PARITY_SCHEMA_VERSION
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
        """Say whether a side missed a limit; for a name without a provider ("int8"), on whatever provider."""
        return any(name == subject or name.startswith(f"{subject}@") for name in self._missing())

    def comparison(self, subject: str) -> Comparison:
        """Return the comparison of `subject` with the side that it was made from."""
        return next(comparison for comparison in self.comparisons if comparison.subject == subject)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table's cells: `COLUMNS` for each side, a reference that is nobody's subject before its first."""
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
                    "missed" if side.subject in missing else "met",
                )
            )
        return rows

    def to_json(self) -> str:
        """Return the report as JSON; `ParityReport.model_validate_json` reads it again."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown: the verdict, the figures and what each means, and all that changed."""
        images = f"{self.data.images} images of {self.data.name}"
        lines = [f"# Parity of {self.name}", ""]
        if self.passed:
            lines += [f"Every limit is met on {images}.", ""]
        else:
            lines += [f"Missed on {images}:", "", *(f"- {breach.text}" for breach in self.breaches), ""]
        lines += [*table(COLUMNS, self.rows()), ""]
        lines += [f"Δ is the difference of a logit. {self.limits.sentence()}", "", "## Figures", ""]
        lines += figures_table(self.comparisons)
        for comparison in self.comparisons:
            lines += ["", *changes_markdown(comparison, self.data.images)]
        return "\n".join(lines) + "\n"

    def _missing(self) -> set[str]:
        return {breach.subject for breach in self.breaches}


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
