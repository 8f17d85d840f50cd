"""Takes what a person says of a visit: checks it, keeps it, and puts the picture into the folder of its class."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.labels import MAX_NAME_LENGTH, ClassMapping, parse_name
from twincar_edge.runtime.collect import class_folder
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import UNKNOWN, Hierarchy, agrees
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.teaching.corrections import Corrections, Judgement, Kind
from twincar_edge.runtime.teaching.labeled import Labeled


def check_name(text: str) -> str:
    """Return the vehicle's name that a person wrote, with single spaces.

    Raises:
        InputError: it cannot be a class name, or not that of a folder.
    """
    name = re.sub(" +", " ", text).strip(" ")
    if not name:
        raise InputError("no name is given: write make, model, body type and year, such as Skoda Fabia Wagon 2016")
    if len(name) > MAX_NAME_LENGTH:
        raise InputError(f"a name has {MAX_NAME_LENGTH} characters at most, this one has {len(name)}")
    ClassMapping((name,))
    if name.lower() == UNKNOWN:
        raise InputError(f"{name!r} is not a name: say that it cannot be told, or leave the visit as it is")
    if class_folder(name) != name:
        raise InputError(f"{name!r} cannot be a folder's name: write it shorter, without / and \\, and no dot in front")
    return name


class Judging:
    """Keeps what people say of visits.

    Attributes:
        corrections: all that was said.
        labeled: the pictures, by class.
    """

    def __init__(
        self,
        state: Path,
        classifier: Callable[[], Classifier],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Prepare.

        Args:
            state: the folder for what is kept.
            classifier: gives the model whose classes are known now.
            clock: the time of day.
        """
        self.corrections = Corrections(state)
        self.labeled = Labeled(state)
        self._classifier = classifier
        self._clock = clock

    def known(self) -> Hierarchy | None:
        """Return the classes of the model; None where it cannot be opened, which must not keep people from judging."""
        try:
            return self._classifier().hierarchy
        except TwincarError:
            return None

    def names(self) -> list[str]:
        """Return names for completion: those that people have given, the newest first, and then the model's classes."""
        given = [one.truth for one in reversed(self.corrections.newest().values()) if one.truth is not None]
        known = self.known()
        return list(dict.fromkeys([*given, *(() if known is None else known.classes)]))

    def pictures(self) -> dict[str, list[Path]]:
        """Return the copies of pictures by the name that people gave the vehicle, the newest first."""
        found: dict[str, list[Path]] = {}
        for visit, one in reversed(self.corrections.newest().items()):
            if one.truth is not None and (picture := self.labeled.picture(visit, one.truth)) is not None:
                found.setdefault(one.truth, []).append(picture)
        return found

    def confirm(self, event: Event, picture: Path | None, user: str) -> None:
        """Take the box's answer for right.

        Raises:
            InputError: there is no answer that could be right, or the picture cannot be copied.
        """
        if event.level == "unknown":
            raise InputError("the answer is unknown, which names no vehicle: give its name")
        self._keep(event, picture, user, "named", event.name)

    def name(self, event: Event, picture: Path | None, user: str, text: str) -> None:
        """Take the name that a person gives.

        Raises:
            InputError: it cannot be a class name, or the picture cannot be copied.
        """
        self._keep(event, picture, user, "named", check_name(text))

    def say(self, event: Event, picture: Path | None, user: str, kind: Kind) -> None:
        """Take it that there is no vehicle, that nobody can tell, or that what was said before was wrong.

        Raises:
            InputError: the picture cannot be copied.
        """
        self._keep(event, picture, user, kind, None)

    def is_new(self, name: str) -> bool:
        """Return whether a name is that of a class that the model does not know, and not a part of a known one's."""
        known, vehicle = self.known(), parse_name(name)
        return known is not None and not any(agrees(vehicle, one) for one in known.vehicles)

    def teaches(self, judgement: Judgement) -> bool:
        """Return whether a judgement names a class in full: a make alone is no class of its own."""
        if judgement.truth is None or (judgement.confirms and not judgement.whole):
            return False
        known = self.known()
        return known is None or judgement.truth in known.classes or self.is_new(judgement.truth)

    def _keep(self, event: Event, picture: Path | None, user: str, kind: Kind, truth: str | None) -> None:
        judgement = Judgement.of(event, user, kind, truth, self._clock())
        self.corrections.add(judgement)  # first: if the copy fails, what was said is not lost
        folder = None
        if judgement.kind == "no vehicle":
            folder = self.labeled.no_vehicle
        elif judgement.truth is not None and self.teaches(judgement):
            folder = self.labeled.of_class(judgement.truth)
        self.labeled.keep(event.id, folder, picture)
