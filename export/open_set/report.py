"""The report on a model's answers to known cars, other cars and things other than cars, as data and Markdown."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from twincar_edge.manifest import FamiliarityThresholds, Temperature, Text
from twincar_edge.markdown import table
from twincar_edge.records import Record, Share
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level

OPEN_SET_SCHEMA_VERSION: Literal[1] = 1
SIZES = (224, 112, 64)  # shorter side in pixels, for cars at increasing distance

GroupOf = Literal["cars", "known make", "unknown make", "no car", "kind"]


class LevelShare(Record):
    """The share of cars with an answer at this level or a deeper one, and their accuracy (None if there are none)."""

    coverage: Share
    right: Share | None


class KnownFigures(Record):
    """Results for cars of the model's classes. The level `year` is the full name.

    `right` is the accuracy of all answers with a name, each at its own level; None if there are none.
    """

    images: int = Field(ge=1)
    levels: dict[Level, LevelShare]
    right: Share | None
    unknown: Share


class GroupFigures(Record):
    """Results for a group of unknown images; the five shares add up to 1.

    `wrong_full_name`, `wrong_model` and `wrong_make` are wrong answers by level: full name, make and model, make only.
    `right` are true coarse answers, such as "Ford" for a Ford that is not one of the classes; images without a car have
    none. `unknown` are answers without a name.

    `of` is the type of the group: all cars, cars of a make that the model knows or does not know, images of one `kind`
    in the table, or images without a car.
    """

    name: Text
    of: GroupOf
    images: int = Field(ge=1)
    wrong_full_name: Share
    wrong_model: Share
    wrong_make: Share
    right: Share
    unknown: Share

    @property
    def wrong(self) -> float:
        """Return the share of any wrong name."""
        return self.wrong_full_name + self.wrong_model + self.wrong_make


class Separation(Record):
    """How well scores separate cars of the model's classes from others: AUROC, 1 is perfect, 0.5 is chance.

    `probability` is that of the best class, `familiarity` the similarity to the training images (None if the model has
    no prototypes). `decision` combines both, as an answer needs both: the minimum of the two, each as its quantile
    among known cars.
    """

    probability: Share
    familiarity: Share | None
    decision: Share


class SizeFigures(Record):
    """Results for images reduced to a shorter side of `size_px` pixels.

    `cars` and `no_car` are the separation of known cars from other cars and from images without a car; None if there
    are no such images, or no known cars.
    """

    size_px: int = Field(ge=1)
    known: KnownFigures | None
    groups: tuple[GroupFigures, ...]
    cars: Separation | None
    no_car: Separation | None


class ConditionFigures(Record):
    """Results for known images under a simulated condition; `right`, `wrong` and `unknown` add up to 1.

    `full_name` is the share with a full name, `full_name_right` their accuracy; None if there are none. If the images
    no longer show a car, all names are wrong.
    """

    name: Text
    shows_car: bool
    images: int = Field(ge=1)
    full_name: Share
    full_name_right: Share | None
    right: Share
    wrong: Share
    unknown: Share


class OpenSetReport(Record):
    """The full measurement of one model; shares are from 0 to 1.

    The model answers as in inference: with `temperature`, `reject_below` and, if it has prototypes, the familiarity
    `thresholds`. `conditions` are for known images at the largest size.
    """

    schema_version: Literal[1] = OPEN_SET_SCHEMA_VERSION
    name: Text
    temperature: Temperature
    reject_below: Share
    thresholds: FamiliarityThresholds | None
    sizes: tuple[SizeFigures, ...] = Field(min_length=1)
    conditions: tuple[ConditionFigures, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the report as JSON, which `OpenSetReport.model_validate_json` reads."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        lines = [f"# Open set: {self.name}", "", self._how(), ""]
        if self.warnings:
            lines += [*(f"- {warning}" for warning in self.warnings), ""]
        if any(size.known for size in self.sizes):
            lines += ["## Cars of the model's classes", "", *table(_KNOWN_COLUMNS, self._known_rows()), ""]
        if rows := self._group_rows(no_car=False):
            lines += ["## Cars of other classes", "", *table(_CAR_COLUMNS, rows), ""]
        if rows := self._group_rows(no_car=True):
            lines += ["## Images without a car", "", *table(_THING_COLUMNS, rows), ""]
        if rows := self._condition_rows():
            title = f"## Known cars at {self.sizes[0].size_px} px under simulated conditions"
            lines += [title, "", *table(_CONDITION_COLUMNS, rows), ""]
        if rows := self._separation_rows():
            lines += ["## AUROC: known cars against", "", *table(_SEPARATION_COLUMNS, rows), ""]
        return "\n".join([*lines, *_EXPLANATION]) + "\n"

    def _how(self) -> str:
        familiar = "no familiarity"
        if self.thresholds is not None:
            levels = ", ".join(f"{_TITLES[level]} {getattr(self.thresholds, level):g}" for level in KNOWN_LEVELS)
            familiar = f"familiarity {levels}"
        return f"An answer needs a probability of {self.reject_below:g} (temperature {self.temperature:g}), {familiar}."

    def _known_rows(self) -> list[tuple[str, ...]]:
        rows = []
        for size in self.sizes:
            if size.known is not None:
                shares = [
                    share
                    for level in KNOWN_LEVELS
                    for share in (size.known.levels[level].coverage, size.known.levels[level].right)
                ]
                cells = (*shares, size.known.right, size.known.unknown)
                rows.append((f"{size.size_px} px", str(size.known.images), *map(_percent, cells)))
        return rows

    def _group_rows(self, *, no_car: bool) -> list[tuple[str, ...]]:
        rows = []
        for size in self.sizes:
            for group in size.groups:
                if (group.of == "no car") == no_car:
                    right = () if no_car else (group.right,)
                    shares = (
                        group.wrong_full_name,
                        group.wrong_model,
                        group.wrong_make,
                        group.wrong,
                        *right,
                        group.unknown,
                    )
                    rows.append((f"{size.size_px} px", group.name, str(group.images), *map(_percent, shares)))
        return rows

    def _condition_rows(self) -> list[tuple[str, ...]]:
        rows = []
        for found in self.conditions:
            shares = (found.full_name, found.full_name_right, found.wrong, found.right, found.unknown)
            rows.append((found.name, str(found.images), *map(_percent, shares)))
        return rows

    def _separation_rows(self) -> list[tuple[str, ...]]:
        rows = []
        for title, found in (
            ("cars of other classes", [(size, size.cars) for size in self.sizes]),
            ("images without a car", [(size, size.no_car) for size in self.sizes]),
        ):
            for size, separation in found:
                if separation is not None:
                    scores = (separation.probability, separation.familiarity, separation.decision)
                    cells = ("–" if score is None else f"{score:.3f}" for score in scores)
                    rows.append((f"{size.size_px} px", title, *cells))
        return rows


_TITLES: dict[Level, str] = {"year": "class in full", "model": "model", "make": "make"}
_KNOWN_COLUMNS = (
    "Shorter side", "Images", "Full name", "Right", "Model or deeper", "Right", "Make or deeper", "Right",
    "Any name: right", "Unknown",
)  # fmt: skip
_WRONG = ("Wrong full name", "Wrong model", "Wrong make", "Any wrong")
_CAR_COLUMNS = ("Shorter side", "Cars", "Images", *_WRONG, "Right coarse name", "Unknown")
_THING_COLUMNS = ("Shorter side", "Group", "Images", "Full name", "Model", "Make", "Any name", "Unknown")
_CONDITION_COLUMNS = (
    "Condition", "Images", "Full name", "Full name: right", "Any wrong", "Right at its level", "Unknown"
)  # fmt: skip
_SEPARATION_COLUMNS = ("Shorter side", "Against", "Probability", "Familiarity", "Decision")
_EXPLANATION = (
    "Images are reduced to the given shorter side; smaller ones do not change. Wrong answers are counted by level. A",
    'coarse answer to a car of another class can be right: "Ford" for a Ford that is not one of the classes. Decision:',
    "the minimum of probability and familiarity, each as its quantile among known cars.",
)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
