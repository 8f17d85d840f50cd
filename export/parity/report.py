"""What parity found, as data and as JSON; `parity_markdown` and `parity_plot` put it into words and into a picture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from twincar_edge.errors import GateError
from twincar_edge.export.parity.names import title
from twincar_edge.manifest import DataRecord, ParityRecord

PARITY_SCHEMA_VERSION: Literal[2] = 2
Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Magnitude = Annotated[float, Field(ge=0)]
Interval = tuple[Change, Change]

COLUMNS = ("Model", "Against", "Top-1", "Top-5", "Agrees", "Where sure", "Max Δ", "Limits")
SURE_MARGIN = 0.5  # between the reference's two best probabilities: above it, the model itself is not in doubt


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParityLimits(_Part):
    """How much may be lost. Shares are between 0 and 1: a drop of 0.005 is half a point.

    `fp32_logit_difference` bounds FP32 against PyTorch: the largest difference of a logit, relative to the reference's
    largest absolute logit. Rounding in another order gives about 1e-6; a wrong graph, a hundred thousand times that. No
    limit on agreement stands beside it, because this one implies it: no answer changes where the two best logits are
    further apart than twice the difference. `provider_logit_difference` bounds the same for an FP32 file on another
    execution provider, some of which round their factors: TF32 to 11 bits, bfloat16 to 8, which changes answers.

    FP16 and INT8 change answers that are nearly ties, so they are judged by accuracy, by agreement, and by agreement
    where the reference is sure (its two best probabilities more than 0.5 apart).
    """

    fp32_logit_difference: Limit = 1e-3
    provider_logit_difference: Limit = 1e-2
    top1_drop: Share = 0.005
    top5_drop: Share = 0.003
    agreement: Share = 0.97
    sure_agreement: Share = 0.998


class Flip(_Part):
    """An image whose answer changed: what it is, and each side's answer with its probability and its margin.

    A margin is the probability of the answer less that of the next class. `max_logit_difference` is this image's.
    """

    image: str
    label: str
    reference: str
    reference_probability: Share
    reference_margin: Share
    answer: str
    probability: Share
    margin: Share
    max_logit_difference: Magnitude

    @property
    def outcome(self) -> Literal["lost", "gained", "wrong"]:
        """Say what the change did: a right answer lost or gained, or one wrong answer for another."""
        if self.reference == self.label:
            return "lost"
        return "gained" if self.answer == self.label else "wrong"


class ClassPair(_Part):
    """How many images went from the class `reference` to the class `answer`."""

    reference: str
    answer: str
    images: int = Field(ge=1)


class ClassChange(_Part):
    """A class whose number of right answers changed: its images, and how many each side gets right."""

    name: str
    images: int = Field(ge=1)
    right_reference: int = Field(ge=0)
    right: int = Field(ge=0)


class Comparison(_Part):
    """One side (`subject`) against the one that it was made from, `against`. Shares are between 0 and 1.

    Intervals are those of the paired difference subject - reference at 95%. `mcnemar_p` is of top-1. `sure_agreement`
    counts the `sure_images` where the reference is sure, and is None where there are none. Logits are compared as the
    models give them; KL divergence (of the subject from the reference), calibration errors (`ece`) and margins are of
    probabilities, after each side's temperature. `reference_margins` and `max_logit_differences` have a figure for each
    image, in the order of the data. `flips` and `class_pairs` begin with the pair of classes that changes most often,
    inside a pair with the answer of which the reference was surest; `class_changes` with the class that loses most.
    """

    subject: str
    against: str
    top1: Share
    top5: Share
    top1_reference: Share
    top5_reference: Share
    top1_difference_interval: Interval
    top5_difference_interval: Interval
    mcnemar_p: Share
    agreement: Share
    sure_images: int = Field(ge=0)
    sure_agreement: Share | None
    max_abs_logit_difference: Magnitude
    mean_abs_logit_difference: Magnitude
    max_abs_logit_reference: Magnitude
    mean_cosine: Change
    min_cosine: Change
    mean_kl_nats: Magnitude
    max_kl_nats: Magnitude
    ece: Share
    ece_reference: Share
    class_pairs: tuple[ClassPair, ...]
    class_changes: tuple[ClassChange, ...]
    flips: tuple[Flip, ...]
    reference_margins: tuple[Share, ...]
    max_logit_differences: tuple[Magnitude, ...]

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
        from twincar_edge.export.parity.markdown import to_markdown  # it reads these classes

        return to_markdown(self)

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
