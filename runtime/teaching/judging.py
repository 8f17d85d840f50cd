"""Checks and stores a user's judgment of a visit, and copies the picture to the folder of its class."""

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
from twincar_edge.runtime.teaching.labeled import LabeledPictures


def check_name(text: str) -> str:
    """Return the vehicle name that a user entered, with single spaces.

    Raises:
        InputError: the text is not a valid class name or folder name.
    """
    name = re.sub(" +", " ", text).strip(" ")
    if not name:
        raise InputError("empty name: enter make, model, body type and year, such as Skoda Fabia Wagon 2016")
    if len(name) > MAX_NAME_LENGTH:
        raise InputError(f"name too long: {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed")
    ClassMapping((name,))
    if name.lower() == UNKNOWN:
        raise InputError(f"{name!r} is not a name: choose `Cannot tell`, or leave the visit unchanged")
    if class_folder(name) != name:
        raise InputError(f"{name!r} is not a valid folder name: shorten it, and remove /, \\ and leading dots")
    return name


class JudgementRecorder:
    """Records judgments of visits.

    Attributes:
        corrections: the database of judgments.
        labeled: the copies of pictures, by class.
    """

    def __init__(
        self,
        state: Path,
        classifier: Callable[[], Classifier],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Prepare.

        Args:
            state: the state folder.
            classifier: returns the current classifier.
            clock: returns the current time.
        """
        self.corrections = Corrections(state)
        self.labeled = LabeledPictures(state)
        self._classifier = classifier
        self._clock = clock

    def known(self) -> Hierarchy | None:
        """Return the model's classes, or None if it cannot be opened, which must not prevent users from judging."""
        try:
            return self._classifier().hierarchy
        except TwincarError:
            return None

    def names(self) -> list[str]:
        """Return names for completion: first those that users entered, newest first, then the model's classes."""
        given = [one.truth for one in reversed(self.corrections.newest().values()) if one.truth is not None]
        known = self.known()
        return list(dict.fromkeys([*given, *(() if known is None else known.classes)]))

    def pictures(self) -> dict[str, list[Path]]:
        """Return the copies of pictures by the name that users gave the vehicle, newest first."""
        found: dict[str, list[Path]] = {}
        for visit, one in reversed(self.corrections.newest().items()):
            if one.truth is not None and (picture := self.labeled.picture(visit, one.truth)) is not None:
                found.setdefault(one.truth, []).append(picture)
        return found

    def confirm(self, event: Event, picture: Path | None, user: str) -> None:
        """Record that the box's answer is right.

        Raises:
            InputError: the answer is unknown, or the picture cannot be copied.
        """
        if event.level == "unknown":
            raise InputError("the answer is unknown and cannot be confirmed: enter a name")
        self._keep(event, picture, user, "named", event.name)

    def name(self, event: Event, picture: Path | None, user: str, text: str) -> None:
        """Record the name that a user entered.

        Raises:
            InputError: the name is invalid, or the picture cannot be copied.
        """
        self._keep(event, picture, user, "named", check_name(text))

    def say(self, event: Event, picture: Path | None, user: str, kind: Kind) -> None:
        """Record that there is no vehicle, that the user cannot tell, or that the earlier judgment is withdrawn.

        Raises:
            InputError: the picture cannot be copied.
        """
        self._keep(event, picture, user, kind, None)

    def is_new(self, name: str) -> bool:
        """Return whether a name is neither a class of the model nor a less specific name of one."""
        known, vehicle = self.known(), parse_name(name)
        return known is not None and not any(agrees(vehicle, one) for one in known.vehicles)

    def teaches(self, judgement: Judgement) -> bool:
        """Return whether a judgment has a full class name, from which the model can learn."""
        if judgement.truth is None or (judgement.confirms and not judgement.whole):
            return False
        known = self.known()
        return known is None or judgement.truth in known.classes or self.is_new(judgement.truth)

    def _keep(self, event: Event, picture: Path | None, user: str, kind: Kind, truth: str | None) -> None:
        judgement = Judgement.of(event, user, kind, truth, self._clock())
        self.corrections.add(judgement)  # first, so that it is not lost if the copy fails
        folder = None
        if judgement.kind == "no vehicle":
            folder = self.labeled.no_vehicle
        elif judgement.truth is not None and self.teaches(judgement):
            folder = self.labeled.of_class(judgement.truth)
        self.labeled.keep(event.id, folder, picture)
