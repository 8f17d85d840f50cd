"""Turns probabilities into an answer as specific as the model is certain: year, model, make, or "unknown".

A class name consists of make, model, body type and year (`labels.parse_name`). A network that cannot decide between two
years of a car may still be certain of its model. So the probabilities of classes are summed by model and by make, and
the answer is the most specific level at which the most probable name reaches the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from twincar_edge.arguments import checked_arguments, require_at_least
from twincar_edge.labels import VehicleName, may_be_a, parse_name
from twincar_edge.manifest import FamiliarityThresholds
from twincar_edge.metrics import top_k
from twincar_edge.wording import percent

UNKNOWN = "unknown"
Level = Literal["year", "model", "make", "unknown"]
KNOWN_LEVELS: tuple[Level, ...] = ("year", "model", "make")  # the most specific first


@dataclass(frozen=True)
class Guess:
    """One class and its probability.

    >>> best, second, *_ = tw.Classifier(tw.demo_model())("crop.jpg").top5
    >>> best.name, best.probability > second.probability
    ('Castor Vela Sedan 2019', True)
    """

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer to one image.

    Attributes:
        label: the model's output index; None if the answer is not a full class name.
        name: the class name, or the part of it that is certain: "BMW 3 Series", "BMW", or "unknown".
        level: how specific the name is. A class name without a year has level "model", or "make" if it is one word.
        probability: the probability of the name; of the best class if the answer is "unknown".
        vehicle: the parts of the name; None for "unknown".
        top5: the most probable classes, at most five, best first.
        familiarity: similarity of the picture to the training pictures, at most 1; None if the model has no prototypes.

    `make`, `model`, `body_type` and `year` are the parts of the name that are certain; the others are None.

    >>> prediction = tw.Classifier(tw.demo_model())("crop.jpg")
    >>> prediction.make, prediction.model, prediction.body_type, prediction.year
    ('Castor', 'Vela', 'Sedan', 2019)
    >>> prediction.to_dict(top=1)["level"]
    'year'
    """

    label: int | None
    name: str
    level: Level
    probability: float
    vehicle: VehicleName | None
    top5: tuple[Guess, ...]
    familiarity: float | None = None

    @property
    def make(self) -> str | None:
        """Return the make; None if the answer is "unknown"."""
        return None if self.vehicle is None else self.vehicle.make

    @property
    def model(self) -> str | None:
        """Return the model without its body type; None if only the make is certain."""
        return None if self.vehicle is None or self.level == "make" else self.vehicle.model

    @property
    def body_type(self) -> str | None:
        """Return the body type; None if it is not certain, or the class name has none."""
        return None if self.vehicle is None else self.vehicle.body_type

    @property
    def year(self) -> int | None:
        """Return the model year; None if it is not certain, or the class name has none."""
        return None if self.vehicle is None else self.vehicle.year

    @checked_arguments
    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """Return the answer as `classify --json` writes it: one row of a `pandas.DataFrame`.

        Args:
            top: the number of classes under "top5", 0 to 5.

        Raises:
            InputError: `top` is not a number, or is negative.
        """
        require_at_least(0, top=top)
        return {
            "name": self.name,
            "level": self.level,
            "probability": round(self.probability, 6),
            "familiarity": None if self.familiarity is None else round(self.familiarity, 6),
            "make": self.make,
            "model": self.model,
            "body_type": self.body_type,
            "year": self.year,
            "top5": [{"name": guess.name, "probability": round(guess.probability, 6)} for guess in self.top5[:top]],
        }


class _Named(Protocol):
    """A class and its probability: a `Guess`, or one of an event."""

    @property
    def name(self) -> str: ...
    @property
    def probability(self) -> float: ...


class _Answer(Protocol):
    """A `Prediction` or an event."""

    @property
    def level(self) -> Level: ...
    @property
    def probability(self) -> float: ...
    @property
    def top5(self) -> Sequence[_Named]: ...


def rejected_guess(answer: _Answer) -> _Named | None:
    """Return the best class if it was rejected, so the answer is "unknown"; otherwise None."""
    return answer.top5[0] if answer.level == UNKNOWN and answer.top5 else None


def certainty(answer: _Answer, decimals: int = 0) -> str:
    """Return an answer's probability as text; for "unknown", the rejected guess, since the probability is that of it.

    Texts and pictures for people use this, so that "unknown" never looks certain.
    """
    guess = rejected_guess(answer)
    if guess is None:
        return "" if answer.level == UNKNOWN else percent(answer.probability, decimals)
    return f"rejected guess: {guess.name} {percent(guess.probability, decimals)}"


def heading(prediction: Prediction) -> str:
    """Return the name as the heading of the list of best classes, which says whether they were rejected."""
    return f"{prediction.name}; rejected guesses:" if prediction.level == UNKNOWN else prediction.name


class Groups:
    """The names of one level, and the classes that each of them groups.

    Attributes:
        names: the names, in the order of the sums.
        of_class: int64 [classes], the index in `names` of each class.
    """

    def __init__(self, of_classes: Sequence[VehicleName]) -> None:
        """Group the classes by their names at this level."""
        indices = {name: index for index, name in enumerate(dict.fromkeys(of_classes))}
        self.names = tuple(indices)
        self.of_class = np.array([indices[name] for name in of_classes], np.int64)
        self._order = np.argsort(self.of_class, kind="stable")
        self._starts = np.searchsorted(self.of_class[self._order], np.arange(len(indices)))

    def sums(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sum the probabilities of each name's classes: [..., classes] to float64 [..., names]."""
        ordered = probabilities[..., self._order].astype(np.float64)
        return np.asarray(np.add.reduceat(ordered, self._starts, axis=-1), np.float64)


class Hierarchy:
    """The classes of a network, grouped by model and by make; created once and used for every answer.

    Attributes:
        classes: the class names.
        vehicles: the parts of each class name.
        model: the groups by make and model. A name has a body type if all classes of this model share it.
        make: the groups by make.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """Group the classes, given in the order of the network's outputs."""
        self.classes = tuple(classes)
        self.vehicles = tuple(parse_name(name) for name in self.classes)
        self.model = Groups(_models(self.vehicles))
        self.make = Groups([VehicleName(vehicle.make, "", None, None) for vehicle in self.vehicles])

    def answer(
        self,
        probabilities: NDArray[np.float32],
        reject_below: float,
        familiarity: float | None = None,
        thresholds: FamiliarityThresholds | None = None,
        allowed: Callable[[Level, VehicleName], bool] | None = None,
    ) -> Prediction:
        """Turn one row of probabilities, float32 [classes], into a `Prediction`.

        Each level is represented by its most probable name. A class contributes to the sums of its model and of its
        make, so names of different levels cannot contradict each other if `reject_below` is above one half.

        Args:
            probabilities: the probability of each class.
            reject_below: the minimum probability of a name.
            familiarity: the picture's familiarity.
            thresholds: the minimum familiarity of each level; if this or `familiarity` is None, probability alone
                decides.
            allowed: returns whether a name of a level may be the answer; None allows all names.
        """
        top5 = tuple(
            Guess(self.classes[label], float(probabilities[label])) for label in top_k(probabilities, 5).tolist()
        )

        def familiar(level: Level) -> bool:
            return familiarity is None or thresholds is None or familiarity >= getattr(thresholds, level)

        for level in KNOWN_LEVELS:
            vehicle, probability = self.best(level, probabilities)
            if probability < reject_below or not familiar(level) or not (allowed is None or allowed(level, vehicle)):
                continue
            label = int(probabilities.argmax()) if level == "year" else None
            name = str(vehicle) if label is None else self.classes[label]
            return Prediction(label, name, level_of(vehicle), probability, vehicle, top5, familiarity)
        return Prediction(None, UNKNOWN, "unknown", top5[0].probability, None, top5, familiarity)

    def best(self, level: Level, probabilities: NDArray[np.float32]) -> tuple[VehicleName, float]:
        """Return the most probable name of a level and its probability."""
        groups = self.groups(level)
        if groups is None:
            label = int(probabilities.argmax())
            return self.vehicles[label], float(probabilities[label])
        sums = groups.sums(probabilities)
        best = int(sums.argmax())
        return groups.names[best], min(1.0, float(sums[best]))

    def of_kind(self, answer: Prediction, kind: str | None) -> Prediction:
        """Return the answer, or "unknown" if no class that it covers can be a vehicle of this kind.

        Args:
            answer: the classifier's answer.
            kind: the detector's class of the vehicle; None if there is no detector.
        """
        if answer.vehicle is None or self.may_be_a(answer.vehicle, kind):
            return answer
        return Prediction(None, UNKNOWN, "unknown", answer.top5[0].probability, None, answer.top5, answer.familiarity)

    def may_be_a(self, vehicle: VehicleName, kind: str | None) -> bool:
        """Return whether any class that a name covers can be a vehicle of this kind."""
        return kind is None or any(may_be_a(known, kind) for known in self.vehicles if agrees(vehicle, known))

    def groups(self, level: Level) -> Groups | None:
        """Return the groups of a level; None for full class names, which are not grouped."""
        return {"model": self.model, "make": self.make}.get(level)

    def probability(self, vehicle: VehicleName, probabilities: NDArray[np.float32]) -> float:
        """Return the summed probability of the classes that a name covers; 0 if it covers none."""
        fits = np.array([agrees(vehicle, known) for known in self.vehicles], np.bool_)
        return min(1.0, float(probabilities[fits].sum(dtype=np.float64)))


def level_of(vehicle: VehicleName) -> Level:
    """Return how specific a name is."""
    if vehicle.year is not None:
        return "year"
    return "model" if vehicle.model or vehicle.body_type else "make"


def agrees(answer: VehicleName, truth: VehicleName) -> bool:
    """Return whether every part of an answer is true of a vehicle; missing parts agree with anything."""
    said = (answer.model or None, answer.body_type, answer.year)
    known = (truth.model or None, truth.body_type, truth.year)
    return answer.make == truth.make and all(one in (None, other) for one, other in zip(said, known, strict=True))


def _models(vehicles: Sequence[VehicleName]) -> list[VehicleName]:
    bodies: dict[tuple[str, str], set[str | None]] = {}
    for vehicle in vehicles:
        bodies.setdefault((vehicle.make, vehicle.model), set()).add(vehicle.body_type)
    return [
        VehicleName(one.make, one.model, one.body_type if len(bodies[one.make, one.model]) == 1 else None, None)
        for one in vehicles
    ]
