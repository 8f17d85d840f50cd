"""What choosing a temperature and a rejection threshold found, as data, as JSON and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from twincar_edge.errors import GateError
from twincar_edge.export.open_set.limits import Limits
from twincar_edge.export.parity.markdown import table
from twincar_edge.export.parity.names import title
from twincar_edge.manifest import ConfidenceRecord, DataRecord, Temperature, UnknownLimits
from twincar_edge.records import Record, Share
from twincar_edge.runtime.inference.answers import Level

CONFIDENCE_SCHEMA_VERSION: Literal[2] = 2

# The sets of unknown pictures.
TWIN_CARS = "twin cars"
NOISE = "noise"
GIVEN = "given images"  # and not the folder's name, which is nobody's business in a manifest
MASKED = "masked"

_MEANING = {
    TWIN_CARS: "drawn cars of invented makes that the model does not know.",
    NOISE: (
        "white noise, soft patches of colour, and flat colours. How many of these get a name says more about the kind "
        "of noise than about cars: judge models by it, and less what a camera will see."
    ),
    GIVEN: "the folders that were given with the export. A coarse name that is true counts as right.",
    MASKED: (
        "the held-out images with their own class taken out of the answer, which stands for a car that the model was "
        "not taught. It is the hard set: the features did learn the class, and its nearest neighbours, often the same "
        "car of another year or body, are all there to be mistaken for it. A model or make that is right all the same "
        "is no wrong name."
    ),
}

LEVEL_TITLES: dict[Level, str] = {"year": "class in full", "model": "make and model", "make": "make"}
SHOWN_THRESHOLDS = (*(step / 10 for step in range(10)), 0.95)  # in the table for people; the report has every 0.01


class ConfidenceOptions(Record):
    """How temperature and rejection threshold are found.

    Attributes:
        temperature: divides the logits; None fits it on the held-out images.
        reject_below: the probability under which the answer is "unknown"; None chooses it by `false_accept`.
        false_accept: how much of each set of unknown pictures may get a wrong name, between 0 and 1.
        unknown: folders of pictures of what the model does not know, beside the sets that are always there; one folder
            may be given as it is.
        hold_noise: hold noise to `false_accept` too, and not only twin cars and the folder.
        hold_masked: the same for "masked", the held-out images without their own class.
        min_coverage: the least share of the held-out images that must get a name, be it a make alone.
        keep_known: the share of held-out images that stay familiar enough for a class name in full, a model, a make.
        max_wrong_names: the share of the images in `unknown` that may get a class name in full. With it and
            `max_wrong_claims`, these images choose all thresholds, and not `false_accept` and `keep_known`.
        max_wrong_claims: the share of them that may get any wrong name.
    """

    temperature: Temperature | None = None
    reject_below: Share | None = None
    false_accept: Share = 0.05
    unknown: tuple[Path, ...] = ()
    hold_noise: bool = False
    hold_masked: bool = False
    min_coverage: Share = 0.5
    keep_known: tuple[Share, Share, Share] = (0.9, 0.9, 0.92)
    max_wrong_names: Share | None = None
    max_wrong_claims: Share | None = None

    @field_validator("unknown", mode="before")
    @classmethod
    def _are_folders(cls, folders: object) -> object:
        return (folders,) if isinstance(folders, str | Path) else folders or ()

    @field_validator("keep_known")
    @classmethod
    def _rises(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if list(shares) != sorted(shares):
            raise ValueError("a level that says less must keep no smaller share")
        return shares

    @model_validator(mode="after")
    def _limits_need_pictures(self) -> Self:
        names, claims = self.max_wrong_names, self.max_wrong_claims
        if (names is None) != (claims is None):
            raise ValueError("max_wrong_names and max_wrong_claims go together")
        if names is not None and claims is not None:
            if names > claims:
                raise ValueError("a wrong name in full is a wrong claim: max_wrong_claims must be no smaller")
            if not self.unknown:
                raise ValueError("max_wrong_names and max_wrong_claims need pictures of what the model does not know")
        return self

    @property
    def limits(self) -> Limits | None:
        """Return the limits by which the given pictures choose the thresholds; None where they do not."""
        if self.max_wrong_names is None or self.max_wrong_claims is None:
            return None
        return Limits(self.max_wrong_names, self.max_wrong_claims)


class CoverageError(GateError):
    """An export's threshold leaves too few of the held-out images a name."""


class ReliabilityBin(Record):
    """Answers of about the same probability: how many, their mean probability, and the share of right ones."""

    images: int = Field(ge=1)
    probability: Share
    right: Share


class LevelPoint(Record):
    """What a threshold gives at one level: `year` is the whole class name, `model` without year and body, or `make`.

    `coverage` is the share of the held-out images whose answer goes so far or farther, `right` the share of those that
    are right so far (None where there are none). `masked_coverage` and `masked_right` are the same of these images
    without their own classes; None where these cannot be taken away.
    """

    coverage: Share
    right: Share | None
    masked_coverage: Share | None
    masked_right: Share | None


class OperatingPoint(Record):
    """What a threshold gives.

    `coverage` is the share of the held-out images that get their class name in full, `named_top1` the share of those
    with the right one (None where none has). `levels` has this for every level, and `answered_right` is the share of
    right answers among all that have a name, each as far as it goes. `unknown_named` is the share of each set of
    unknown pictures that gets a wrong name, be it a make alone.
    """

    threshold: Share
    coverage: Share
    named_top1: Share | None
    levels: dict[Level, LevelPoint]
    answered_right: Share | None
    unknown_named: dict[str, Share]


class PrecisionFigures(Record):
    """One precision's figures: calibration error and likelihood (nats) without and with the temperature, and the point.

    `at_threshold` is what the chosen threshold gives with this precision's own probabilities.
    """

    top1: Share
    ece_before: Share
    ece_after: Share
    nll_before: Annotated[float, Field(ge=0)]
    nll_after: Annotated[float, Field(ge=0)]
    at_threshold: OperatingPoint


class ConfidenceReport(Record):
    """How sure a model may be, and how that was found. Shares are between 0 and 1.

    `data` are the held-out images; `unknown` is how many pictures each set of unknown ones has, and `held` names the
    sets that the threshold was chosen by, none where it was given. `precisions` has the figures of each file; the first
    of them is the one that the temperature was fitted on, and that `points` (every 0.01, and the chosen threshold)
    and the reliability bins (without and with the temperature; empty ones are left out) are of. `limits` says for each
    file what the given pictures chose its thresholds by; it is empty where they did not.
    """

    schema_version: Literal[2] = CONFIDENCE_SCHEMA_VERSION
    name: str
    data: DataRecord
    temperature: Temperature
    temperature_fitted: bool
    threshold: Share
    false_accept: Share | None
    held: tuple[str, ...]
    unknown: dict[str, int]
    precisions: dict[str, PrecisionFigures]
    points: tuple[OperatingPoint, ...]
    reliability_before: tuple[ReliabilityBin, ...]
    reliability_after: tuple[ReliabilityBin, ...]
    warnings: tuple[str, ...]
    limits: dict[str, UnknownLimits] = Field(default_factory=dict)

    def record(self, precision: str) -> ConfidenceRecord:
        """Return what the manifest of this precision's file keeps."""
        figures = self.precisions[precision]
        return ConfidenceRecord(
            images=self.data.images,
            ece_before=figures.ece_before,
            ece_after=figures.ece_after,
            coverage=figures.at_threshold.coverage,
            named_top1=figures.at_threshold.named_top1,
            false_accept=self.false_accept,
            unknown_named=figures.at_threshold.unknown_named,
            limits=self.limits.get(precision),
        )

    def named(self, precision: str) -> float:
        """Return the share of the held-out images that this precision's file gives a name, be it a make alone."""
        return self.precisions[precision].at_threshold.levels["make"].coverage

    def columns(self) -> tuple[str, ...]:
        """Return the headings of `rows`."""
        return ("Model", "Top-1", "ECE before", "after", "NLL before", "after", *self._point_columns())

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of the table of precisions, one row for each."""
        rows = []
        for precision, found in self.precisions.items():
            rows.append(
                (
                    title(precision),
                    f"{found.top1:.2%}",
                    f"{found.ece_before:.2%}",
                    f"{found.ece_after:.2%}",
                    f"{found.nll_before:.3f}",
                    f"{found.nll_after:.3f}",
                    *_cells(found.at_threshold),
                )
            )
        return rows

    def to_json(self) -> str:
        """Return the report as JSON; `ConfidenceReport.model_validate_json` reads it again."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown: what was chosen, what to beware of, the figures, and what they mean."""
        how = "fitted on" if self.temperature_fitted else "given, judged by"
        lines = [
            f"# Confidence of {self.name}",
            "",
            f"- Temperature **{self.temperature:g}**, {how} {self.data.images} held-out images of {self.data.name}.",
            f'- Answers below **{self.threshold:g}** are "unknown": {self._why()}.',
            "",
        ]
        if self.warnings:
            lines += ["To beware of:", "", *(f"- {warning}" for warning in self.warnings), ""]
        lines += [*table(self.columns(), self.rows()), ""]
        lines += [
            "Before and after: without and with the temperature. ECE is the expected calibration error, by how much "
            "being sure and being right differ; NLL the negative log likelihood in nats. In full: held-out images that "
            "get a class name at the threshold; Named: those that get a name at all, be it a make alone; Right: how "
            "many of those are right, as far as they go. The temperature is fitted on these same images, and the "
            "threshold chosen on these same unknown pictures: expect new ones to be a little harder.",
            "",
            "## How far an answer goes",
            "",
            f"Probabilities are summed up the names. At {self.threshold:g}, of the held-out images, and of the same "
            "images without their own class, which stands for a car of a year or body that the model was not taught:",
            "",
            *table(
                ("Level", "So far or farther", "Right so far", "Own class taken away", "Right so far"),
                [self._level_row(level, point) for level, point in self._chosen.levels.items()],
            ),
            "",
            "## Thresholds",
            "",
            *table(
                ("Threshold", *self._point_columns()),
                [self._point_row(point) for point in self.points if self._is_shown(point)],
            ),
            "",
            "## Pictures of what the model does not know",
            "",
            *(f"- {name} ({images}): {_MEANING[name]}" for name, images in self.unknown.items()),
        ]
        return "\n".join(lines) + "\n"

    def _why(self) -> str:
        for limits in self.limits.values():
            return (
                "chosen together with familiarity, so that with 90% confidence at most "
                f"{limits.max_wrong_names:.1%} of pictures like the {limits.images} given ones get a name in full and "
                f"{limits.max_wrong_claims:.1%} any wrong name"
            )
        if self.false_accept is None:
            return "that was given"
        if not self.held:
            return "no set of unknown pictures was held"
        return f"the lowest at which at most {self.false_accept:.1%} of {' and of '.join(self.held)} get a wrong name"

    @property
    def _chosen(self) -> OperatingPoint:
        return next(point for point in self.points if point.threshold == self.threshold)

    def _point_columns(self) -> tuple[str, ...]:
        return ("In full", "Right", "Named", "Right", *(f"{name} named" for name in self.unknown))

    def _level_row(self, level: Level, point: LevelPoint) -> tuple[str, ...]:
        shares = (point.coverage, point.right, point.masked_coverage, point.masked_right)
        return (LEVEL_TITLES[level], *(_percent(share) for share in shares))

    def _is_shown(self, point: OperatingPoint) -> bool:
        return point.threshold in (*SHOWN_THRESHOLDS, self.threshold)

    def _point_row(self, point: OperatingPoint) -> tuple[str, ...]:
        first = f"{point.threshold:g}"
        return (f"**{first}**" if point.threshold == self.threshold else first, *_cells(point))


def _cells(point: OperatingPoint) -> tuple[str, ...]:
    shares = (point.coverage, point.named_top1, point.levels["make"].coverage, point.answered_right)
    return (*(_percent(share) for share in shares), *(f"{share:.1%}" for share in point.unknown_named.values()))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"
