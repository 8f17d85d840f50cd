"""What a model answers to cars of its classes, to other cars, and to things that are no car: as data and as text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from twincar_edge.export.parity.markdown import table
from twincar_edge.manifest import FamiliarityThresholds, Temperature, Text
from twincar_edge.records import Record, Share
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Level

OPEN_SET_SCHEMA_VERSION: Literal[1] = 1
SIZES = (224, 112, 64)  # pixels of the shorter side: near, farther, far

GroupOf = Literal["cars", "known make", "unknown make", "no car", "kind"]


class LevelShare(Record):
    """The share of cars whose answer goes so far or farther, and the share of these that is right; None of none."""

    coverage: Share
    right: Share | None


class KnownFigures(Record):
    """Cars of the model's classes: `year` is the class in full.

    `right` is the share of right answers among those that name anything, each as far as it goes; None where none does.
    """

    images: int = Field(ge=1)
    levels: dict[Level, LevelShare]
    right: Share | None
    unknown: Share


class GroupFigures(Record):
    """Pictures of what the model does not know; the five shares add up to 1.

    `wrong_full_name`, `wrong_model` and `wrong_make` are wrong answers by how far they go: a class in full, make and
    model, a make alone. `right` are coarse answers that are true, such as "Ford" for a Ford that is none of the
    classes; a thing that is no car has none. `unknown` got no name.

    `of` says what the group is: all cars, those of a make that the model knows or does not know, those of one `kind`
    of the table, or things that are no car.
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
        """Return the share of any wrong claim."""
        return self.wrong_full_name + self.wrong_model + self.wrong_make


class Separation(Record):
    """How well scores tell cars of the model's classes from others: AUROC, 1 is perfect, a half is chance.

    `probability` is that of the best class, `familiarity` the nearness to the training pictures (None where the model
    has none). `decision` takes both as an answer does, which needs both: the lower of the two, each as the share of the
    known cars that have less of it.
    """

    probability: Share
    familiarity: Share | None
    decision: Share


class SizeFigures(Record):
    """What is answered to pictures whose shorter side has at most `size_px` pixels.

    `cars` and `no_car` say how well the scores tell known cars from these; None where there are no such pictures, or no
    known cars.
    """

    size_px: int = Field(ge=1)
    known: KnownFigures | None
    groups: tuple[GroupFigures, ...]
    cars: Separation | None
    no_car: Separation | None


class ConditionFigures(Record):
    """Known pictures, changed to what a camera may see: the shares `right`, `wrong` and `unknown` add up to 1.

    `full_name` is the share that got a class in full, `full_name_right` the share of these that is right; None where
    none did. Where the pictures do not show a car any more, every name is wrong.
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
    """A whole measurement of one model; shares are between 0 and 1.

    The model answers as a box would: with `temperature`, `reject_below` and, where it has prototypes, the `thresholds`
    of familiarity. `conditions` are made of the known pictures at the largest size.
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
        """Return the report as JSON; `OpenSetReport.model_validate_json` reads it again."""
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
            lines += ["## Things that are no car", "", *table(_THING_COLUMNS, rows), ""]
        if rows := self._condition_rows():
            title = f"## Known cars at {self.sizes[0].size_px} px, changed to what a camera may see"
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
            ("things that are no car", [(size, size.no_car) for size in self.sizes]),
        ):
            for size, separation in found:
                if separation is not None:
                    scores = (separation.probability, separation.familiarity, separation.decision)
                    cells = ("–" if score is None else f"{score:.3f}" for score in scores)
                    rows.append((f"{size.size_px} px", title, *cells))
        return rows


_TITLES: dict[Level, str] = {"year": "class in full", "model": "model", "make": "make"}
_KNOWN_COLUMNS = (
    "Shorter side", "Images", "In full", "Right", "Model or more", "Right so far", "Make or more", "Right so far",
    "Any name: right", "Unknown",
)  # fmt: skip
_WRONG = ("Wrong full name", "Wrong model", "Wrong make", "Any wrong")
_CAR_COLUMNS = ("Shorter side", "Cars", "Images", *_WRONG, "Right as far as it goes", "Unknown")
_THING_COLUMNS = ("Shorter side", "Pictures", "Images", "Full name", "Model", "Make", "Any name", "Unknown")
_CONDITION_COLUMNS = (
    "Pictures", "Images", "Full name", "Of these right", "Any wrong", "Right as far as it goes", "Unknown"
)  # fmt: skip
_SEPARATION_COLUMNS = ("Shorter side", "Against", "Probability", "Familiarity", "Decision")
_EXPLANATION = (
    "Pictures are reduced to a shorter side of at most so many pixels. A wrong answer counts by how far it goes. A",
    'coarse answer may be right of a car of another class: "Ford" of a Ford that is none of the classes. Decision: the',
    "lower of probability and familiarity, each as the share of the known cars that have less of it.",
)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
