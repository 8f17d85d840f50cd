"""From probabilities to an answer that goes only as far as it is sure: year, model, make, or "unknown".

A class name says make, model, body type and year (`labels.parse_name`). Classes of one model, and of one make, belong
together: what the model is unsure of between two years of a car, it may be sure of together. So probabilities are
summed up this hierarchy, and the deepest level at which the most probable name reaches the threshold is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twincar_edge.labels import VehicleName, may_be_a, parse_name
from twincar_edge.manifest import FamiliarityThresholds
from twincar_edge.metrics import top_k

UNKNOWN = "unknown"
Level = Literal["year", "model", "make", "unknown"]
KNOWN_LEVELS: tuple[Level, ...] = ("year", "model", "make")  # the deepest first


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
    """One image's answer.

    Attributes:
        label: the model's output index, or None where the answer is not one class's whole name.
        name: the class name, or as much of it as is sure: "BMW 3 Series", "BMW", or "unknown".
        level: how far the name goes. A class name without a year is of level "model", or "make" if it is one word.
        probability: that of the name; of the best class where the answer is "unknown".
        vehicle: the name in parts; None for "unknown".
        top5: the best classes, best first.
        familiarity: how near the picture is to what the model was taught, at most 1; None where the model cannot say.

    `make`, `model`, `body_type` and `year` are the parts of the name that are sure; None for the others.

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
        """Return the make; None where the answer is "unknown"."""
        return None if self.vehicle is None else self.vehicle.make

    @property
    def model(self) -> str | None:
        """Return the model without its body type; None where only the make is sure."""
        return None if self.vehicle is None or self.level == "make" else self.vehicle.model

    @property
    def body_type(self) -> str | None:
        """Return the body type; None where it is not sure, or the class name has none."""
        return None if self.vehicle is None else self.vehicle.body_type

    @property
    def year(self) -> int | None:
        """Return the model year; None where it is not sure, or the class name has none."""
        return None if self.vehicle is None else self.vehicle.year

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """Return the answer as `classify --json` writes it: one row of a `pandas.DataFrame`.

        Args:
            top: how many of the best classes to list under "top", 0 to 5.
        """
        return {
            "name": self.name,
            "level": self.level,
            "probability": round(self.probability, 6),
            "familiarity": None if self.familiarity is None else round(self.familiarity, 6),
            "make": self.make,
            "model": self.model,
            "body_type": self.body_type,
            "year": self.year,
            "top": [{"name": guess.name, "probability": round(guess.probability, 6)} for guess in self.top5[:top]],
        }


class Groups:
    """The names of one level, and which classes each of them stands for.

    Attributes:
        names: in the order of the sums.
        of_class: int64 [classes], each class's place in `names`.
    """

    def __init__(self, of_classes: Sequence[VehicleName]) -> None:
        """Put the classes together that have one name at this level."""
        places = {name: place for place, name in enumerate(dict.fromkeys(of_classes))}
        self.names = tuple(places)
        self.of_class = np.array([places[name] for name in of_classes], np.int64)
        self._order = np.argsort(self.of_class, kind="stable")
        self._starts = np.searchsorted(self.of_class[self._order], np.arange(len(places)))

    def sums(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what the classes of each name have together: [..., classes] to float64 [..., names]."""
        ordered = probabilities[..., self._order].astype(np.float64)
        return np.asarray(np.add.reduceat(ordered, self._starts, axis=-1), np.float64)


class Hierarchy:
    """The classes of a model by model and make: made once, used for every answer.

    Attributes:
        classes: the class names.
        vehicles: these in parts.
        model: by make and model. The body type is part of a name where all that the model knows of this model have it.
        make: by make.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """Sort the classes, the names of a model's outputs in their order."""
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

        At each level the most probable name stands for it. A class's probability is part of its model's and that of its
        make's, so that nothing above a half leads to two names that contradict each other.

        Args:
            probabilities: of the classes.
            reject_below: the least probability of a name.
            familiarity: how near the picture is to what the model was taught.
            thresholds: the least familiarity for each level; where either is None, probability alone decides.
            allowed: whether a name of a level may be the answer, whatever its probability; None allows all.
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
        """Return the most probable name of a level, and its probability."""
        groups = self.groups(level)
        if groups is None:
            label = int(probabilities.argmax())
            return self.vehicles[label], float(probabilities[label])
        sums = groups.sums(probabilities)
        place = int(sums.argmax())
        return groups.names[place], min(1.0, float(sums[place]))

    def of_kind(self, answer: Prediction, kind: str | None) -> Prediction:
        """Return an answer to a vehicle of this kind: "unknown" where no class of that name may be one.

        Args:
            answer: what the model says.
            kind: what a detector calls the vehicle; None where nobody can tell.
        """
        if answer.vehicle is None or self.may_be_a(answer.vehicle, kind):
            return answer
        return Prediction(None, UNKNOWN, "unknown", answer.top5[0].probability, None, answer.top5, answer.familiarity)

    def may_be_a(self, vehicle: VehicleName, kind: str | None) -> bool:
        """Return whether any class for which a name may stand may be a vehicle of this kind."""
        return kind is None or any(may_be_a(known, kind) for known in self.vehicles if agrees(vehicle, known))

    def groups(self, level: Level) -> Groups | None:
        """Return the names of a level; None for class names in full, which stand for themselves."""
        return {"model": self.model, "make": self.make}.get(level)

    def probability(self, vehicle: VehicleName, probabilities: NDArray[np.float32]) -> float:
        """Return what the classes have together of which a name is true: 0 where there are none."""
        fits = np.array([agrees(vehicle, known) for known in self.vehicles], np.bool_)
        return min(1.0, float(probabilities[fits].sum(dtype=np.float64)))


def level_of(vehicle: VehicleName) -> Level:
    """Return how far a name goes."""
    if vehicle.year is not None:
        return "year"
    return "model" if vehicle.model or vehicle.body_type else "make"


def agrees(answer: VehicleName, truth: VehicleName) -> bool:
    """Return whether an answer says nothing of a vehicle that is not true of it, however little it says."""
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
