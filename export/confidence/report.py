"""The report on temperature and rejection threshold, as data, JSON and Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from twincar_edge.errors import GateError
from twincar_edge.export.open_set.limits import Limits
from twincar_edge.export.parity.names import title
from twincar_edge.manifest import ConfidenceRecord, DataRecord, Temperature, UnknownLimits
from twincar_edge.markdown import table
from twincar_edge.records import Record, Settings, Share
from twincar_edge.runtime.inference.answers import Level

CONFIDENCE_SCHEMA_VERSION: Literal[2] = 2

# The sets of unknown images.
TWIN_CARS = "twin cars"
NOISE = "noise"
GIVEN = "given images"  # not the folder's name, which must not leak into a manifest
MASKED = "masked"

_MEANING = {
    TWIN_CARS: "synthetic cars of invented makes that the model does not know.",
    NOISE: (
        "white noise, soft patches of color, and flat colors. The share that gets a name depends on the kind of noise: "
        "use it to compare models, not to predict results on a camera."
    ),
    GIVEN: "the folders given to the export. A true coarse name counts as right.",
    MASKED: (
        "the held-out images with the logit of their own class removed, which simulates an unknown car. This is the "
        "hardest set: the features were trained on the class, and similar classes, often the same car of another year "
        "or body type, remain as answers. A right model or make does not count as a wrong name."
    ),
}

LEVEL_TITLES: dict[Level, str] = {"year": "class in full", "model": "make and model", "make": "make"}
SHOWN_THRESHOLDS = (*(step / 10 for step in range(10)), 0.95)  # in the Markdown table; the JSON has every 0.01


class ConfidenceOptions(Settings):
    """How to choose temperature and rejection threshold. All shares are from 0 to 1.

    Attributes:
        temperature: divides the logits; None fits it on the held-out images.
        reject_below: the probability below which the answer is "unknown"; None chooses it by `false_accept`.
        false_accept: the largest share of each set of unknown images that may get a wrong name.
        unknown: folders of images of unknown things, in addition to the built-in sets; a single path is accepted.
        hold_noise: apply `false_accept` to noise too, not only to twin cars and the folders.
        hold_masked: apply `false_accept` to "masked" too, the held-out images without their own class.
        min_coverage: the smallest share of held-out images that must get a name, possibly only a make.
        keep_known: the shares of held-out images that must reach the familiarity threshold of a full name, a model and
            a make.
        max_wrong_names: the largest share of the images in `unknown` that may get a full name. Together with
            `max_wrong_claims`, it chooses all thresholds instead of `false_accept` and `keep_known`.
        max_wrong_claims: the largest share of the images in `unknown` that may get any wrong name.
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
    def _as_tuple(cls, folders: object) -> object:
        return (folders,) if isinstance(folders, str | Path) else folders or ()

    @field_validator("keep_known")
    @classmethod
    def _check_ascending(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if list(shares) != sorted(shares):
            raise ValueError("the shares for a full name, a model and a make must be in ascending order")
        return shares

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        names, claims = self.max_wrong_names, self.max_wrong_claims
        if (names is None) != (claims is None):
            raise ValueError("max_wrong_names and max_wrong_claims must be set together")
        if names is not None and claims is not None:
            if names > claims:
                raise ValueError("max_wrong_claims includes wrong full names: it must be max_wrong_names or more")
            if not self.unknown:
                raise ValueError("max_wrong_names and max_wrong_claims need images of unknown things")
        return self

    @property
    def limits(self) -> Limits | None:
        """Return the limits by which the given images choose the thresholds, or None."""
        if self.max_wrong_names is None or self.max_wrong_claims is None:
            return None
        return Limits(self.max_wrong_names, self.max_wrong_claims)


class CoverageError(GateError):
    """Too few held-out images get a name at an export's threshold."""


class ReliabilityBin(Record):
    """Answers of similar probability: their number, mean probability and accuracy."""

    images: int = Field(ge=1)
    probability: Share
    right: Share


class LevelPoint(Record):
    """Results at a threshold for one level: `year` is the full class name, `model` has no year and body type, `make`.

    `coverage` is the share of held-out images whose answer has this level or a deeper one, `right` their accuracy at
    this level (None if there are none). `masked_coverage` and `masked_right` are the same with the images' own classes
    masked; None if there are too few classes.
    """

    coverage: Share
    right: Share | None
    masked_coverage: Share | None
    masked_right: Share | None


class OperatingPoint(Record):
    """Results at a threshold.

    `coverage` is the share of held-out images that get a full name, `named_top1` their accuracy (None if there are
    none). `levels` has both for each level. `answered_right` is the accuracy of all answers with a name, each at its
    own level. `unknown_named` is the share of each set of unknown images that gets a wrong name, possibly only a make.
    """

    threshold: Share
    coverage: Share
    named_top1: Share | None
    levels: dict[Level, LevelPoint]
    answered_right: Share | None
    unknown_named: dict[str, Share]


class PrecisionFigures(Record):
    """Results of one precision: calibration error and likelihood (nats) without and with the temperature.

    `at_threshold` has the results at the chosen threshold, with this precision's own probabilities.
    """

    top1: Share
    ece_before: Share
    ece_after: Share
    nll_before: Annotated[float, Field(ge=0)]
    nll_after: Annotated[float, Field(ge=0)]
    at_threshold: OperatingPoint


class ConfidenceReport(Record):
    """The chosen temperature and threshold, and their effect. Shares are from 0 to 1.

    `data` are the held-out images. `unknown` is the number of images in each set of unknown ones. `held` lists the sets
    that the threshold was chosen by; it is empty if the threshold was given. `below_floor` is the threshold that they
    allow, if it was raised to the floor of models with familiarity. `precisions` has the results of each file.
    The temperature is fitted on the first precision; `points` (every 0.01, and the chosen threshold) and the
    reliability bins (without and with the temperature, non-empty ones only) are also of that. `limits` has, for each
    file, the limits by which the given images chose its thresholds; otherwise it is empty. `validation_model` is the
    SHA-256 of the file that answered the held-out images in place of all precisions, or None.
    """

    schema_version: Literal[2] = CONFIDENCE_SCHEMA_VERSION
    name: str
    data: DataRecord
    temperature: Temperature
    temperature_fitted: bool
    threshold: Share
    false_accept: Share | None
    held: tuple[str, ...]
    below_floor: Share | None = None
    unknown: dict[str, int]
    precisions: dict[str, PrecisionFigures]
    points: tuple[OperatingPoint, ...]
    reliability_before: tuple[ReliabilityBin, ...]
    reliability_after: tuple[ReliabilityBin, ...]
    warnings: tuple[str, ...]
    limits: dict[str, UnknownLimits] = Field(default_factory=dict)
    validation_model: str | None = None

    def record(self, precision: str) -> ConfidenceRecord:
        """Return the record for the manifest of this precision's file."""
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
            validation_model=self.validation_model,
        )

    def named(self, precision: str) -> float:
        """Return the share of held-out images to which this precision's file gives a name, possibly only a make."""
        return self.precisions[precision].at_threshold.levels["make"].coverage

    def columns(self) -> tuple[str, ...]:
        """Return the headings of `rows`."""
        return ("Model", "Top-1", "ECE before", "after", "NLL before", "after", *self._point_columns())

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of the table of precisions, one row per precision."""
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
        """Return the report as JSON, which `ConfidenceReport.model_validate_json` reads."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown: the chosen values, warnings, the results, and their meaning."""
        how = "fitted on" if self.temperature_fitted else "given, evaluated on"
        lines = [
            f"# Confidence of {self.name}",
            "",
            f"- Temperature **{self.temperature:g}**, {how} {self.data.images} held-out images of {self.data.name}.",
            f'- Answers below **{self.threshold:g}** are "unknown": {self._why()}.',
            "",
        ]
        if self.validation_model is not None:
            lines[-1:] = [
                f"- The held-out images were answered by a validation model (SHA-256 {self.validation_model[:16]}…), "
                "because this one has learned from them.",
                "",
            ]
        if self.warnings:
            lines += ["Warnings:", "", *(f"- {warning}" for warning in self.warnings), ""]
        lines += [*table(self.columns(), self.rows()), ""]
        lines += [
            "Before and after: without and with the temperature. ECE is the expected calibration error, the mean gap "
            "between probability and accuracy; NLL the negative log likelihood in nats. In full: held-out images that "
            "get a full class name at the threshold. Named: those that get any name, possibly only a make. Right: the "
            "accuracy of these names, each at its own level. The temperature is fitted on these same images, and the "
            "threshold chosen on these same unknown images: expect slightly worse results on new images.",
            "",
            "## Results by level",
            "",
            "The probability of a model or make is the sum over its classes. Shares of held-out images at "
            f"{self.threshold:g}; masked: with their own class removed, which simulates a car of an unknown year or "
            "body type.",
            "",
            *table(
                ("Level", "This level or deeper", "Right", "Masked: this level or deeper", "Masked: right"),
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
            "## Images of unknown things",
            "",
            *(f"- {name} ({images}): {_MEANING[name]}" for name, images in self.unknown.items()),
        ]
        return "\n".join(lines) + "\n"

    def _why(self) -> str:
        for limits in self.limits.values():
            return (
                "chosen together with familiarity, so that with 90% confidence at most "
                f"{limits.max_wrong_names:.1%} of images like the {limits.images} given ones get a full name and at "
                f"most {limits.max_wrong_claims:.1%} any wrong name"
            )
        if self.false_accept is None:
            return "this threshold was given"
        if not self.held:
            return "no set of unknown images limited it"
        limit = f"at most {self.false_accept:.1%} of {' and of '.join(self.held)} get a wrong name"
        if self.below_floor is not None:
            return f"the floor of models with familiarity ({limit} from {self.below_floor:g} on)"
        return f"the lowest at which {limit}"

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
