"""Scores the visits of a run against the ground truth of its clip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twincar_edge.errors import InputError, first_fault
from twincar_edge.labels import ClassMapping, VehicleName, parse_name
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import agrees


@dataclass(frozen=True)
class Pass:
    """The ground truth of one vehicle: its class name, and the first and last frame in which it is visible.

    `image` is the file that the clip shows in this pass, if the clip is made of pictures; otherwise None.
    """

    name: str
    first_frame: int
    last_frame: int
    image: str | None = None


@dataclass(frozen=True)
class PassResult:
    """A pass and the visits that it produced: exactly one if the run was right."""

    truth: Pass
    visits: tuple[Event, ...]

    @property
    def verdict(self) -> str:
        """Return "right", "coarser", "wrong name", "unknown", "missed" or "doubled".

        "coarser" is a correct but less specific answer: the make, or the make and the model.
        """
        if len(self.visits) != 1:
            return "doubled" if self.visits else "missed"
        (visit,) = self.visits
        if visit.name == self.truth.name:
            return "right"
        if visit.make is None:
            return "unknown"
        answer = VehicleName(visit.make, visit.model or "", visit.body_type, visit.year)
        return "coarser" if agrees(answer, parse_name(self.truth.name)) else "wrong name"


@dataclass(frozen=True)
class Score:
    """All passes of a clip with their visits; `extra` are visits during which no vehicle passed."""

    passes: tuple[PassResult, ...]
    extra: tuple[Event, ...]

    def count(self, verdict: str) -> int:
        """Return the number of passes with a verdict."""
        return sum(result.verdict == verdict for result in self.passes)

    @property
    def right(self) -> float:
        """Return the share of passes with exactly one visit and the right name; extra visits count as wrong."""
        return self.count("right") / (len(self.passes) + len(self.extra)) if self.passes or self.extra else 0.0

    def summary(self) -> str:
        """Return the counts in one line."""
        answers = [
            f"{count} {words}"
            for verdict, words in (("coarser", "right but coarser"), ("wrong name", "wrong"), ("unknown", "unknown"))
            if (count := self.count(verdict))
        ]
        found = sum(len(result.visits) == 1 for result in self.passes)
        return (
            ", ".join((f"{self.count('right')} of {len(self.passes)} passes right", *answers)) + f"; {found} found "
            f"exactly once, {self.count('missed')} missed, {self.count('doubled')} doubled, {len(self.extra)} extra"
        )


def score_visits(passes: Sequence[Pass], visits: Sequence[Event]) -> Score:
    """Assign each visit to the pass with the largest temporal overlap, and score all passes.

    The overlap is the intersection over union of the frame ranges, so if two vehicles are in view at the same time,
    each visit goes to the pass whose range it fits best. A visit that overlaps no pass is extra.
    """
    assigned: list[list[Event]] = [[] for _ in passes]
    extra = []
    for visit in visits:
        shares = [_overlap(visit, one) for one in passes]
        best = max(range(len(passes)), key=shares.__getitem__, default=None)
        if best is None or shares[best] == 0:
            extra.append(visit)
        else:
            assigned[best].append(visit)
    results = (PassResult(one, tuple(own)) for one, own in zip(passes, assigned, strict=True))
    return Score(tuple(results), tuple(extra))


def _overlap(visit: Event, one: Pass) -> float:
    shared = min(visit.last_frame, one.last_frame) - max(visit.first_frame, one.first_frame) + 1
    span = max(visit.last_frame, one.last_frame) - min(visit.first_frame, one.first_frame) + 1
    return max(0, shared) / span


class _PassRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")

    label: Annotated[int, Field(ge=0)]
    name: str | None = None
    filename: str | None = None
    first_frame: Annotated[int, Field(ge=0)]
    last_frame: Annotated[int, Field(ge=0)]


class _TruthFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    passes: list[_PassRecord]


def read_truth(path: Path, classes: ClassMapping) -> list[Pass]:
    """Read the passes of a clip from JSON: `{"passes": [{"label", "first_frame", "last_frame", "name"?}, …]}`.

    Args:
        path: the file that `synthesize clip` writes next to its clip, or one of the same format. A pass may also have a
            `filename`, the picture that it shows.
        classes: the names of passes that have only a label.

    Raises:
        InputError: the file is missing, has another format, or has a label outside the classes.
    """
    try:
        records = _TruthFile.model_validate(json.loads(path.read_text("utf-8"))).passes
    except OSError as error:
        raise InputError(f"cannot read the ground truth {path}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    outside = next((record.label for record in records if record.name is None and record.label >= len(classes)), None)
    if outside is not None:
        raise InputError(
            f"{path} has label {outside}, but the model has {len(classes)} classes: use the ground truth of this model"
        )
    return [Pass(r.name or classes[r.label], r.first_frame, r.last_frame, r.filename) for r in records]
