"""Learns new classes of the pictures that people named, and has the new model used when they have seen its check."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.files import make_folder, sha256
from twincar_edge.runtime.enroll import EnrollConfig, EnrollReport, enroll
from twincar_edge.runtime.inference.session import ModelSession

LEAST_PICTURES = 2
MOST_PICTURES = 200  # of a class, the newest: a mean gains little more
MOST_CLASSES = 50  # in one run


@dataclass(frozen=True)
class Lesson:
    """What one run gave.

    Attributes:
        names: the classes that were to be learned.
        user: who asked for it.
        report: the check; None where it failed.
        problem: why it failed, in one line, or None.
    """

    names: tuple[str, ...]
    user: str
    report: EnrollReport | None = None
    problem: str | None = None


class Learner:
    """Runs `enroll`, one run at a time, and keeps the model of the last one until it is used.

    Attributes:
        model: where the taken model is: a path that stays the same, so that `watch` can be started with it.
        lesson: the last run, or None.
    """

    def __init__(self, state: Path) -> None:
        """Take the state folder."""
        self.model = state / "models" / "learned.onnx"
        self.lesson: Lesson | None = None
        self._candidate = self.model.with_name("candidate.onnx")
        self._previous = self.model.with_name("previous.onnx")
        self._busy = threading.Lock()

    def learn(self, session: ModelSession, classes: Mapping[str, Sequence[Path]], user: str) -> None:
        """Make a model with more classes, and keep its check as `lesson`, also where it fails.

        Args:
            session: the model in use, whose file is the base.
            classes: the pictures of each new class, by its name, the newest first.
            user: who asks for it.

        Raises:
            InputError: another run is not over, or too many classes are given.
        """
        if not 1 <= len(classes) <= MOST_CLASSES:
            raise InputError(f"choose 1 to {MOST_CLASSES} classes to learn, found {len(classes)}")
        with self._alone():
            self.lesson = None
            names = tuple(classes)
            config = EnrollConfig(
                output=self._candidate,
                model=session.model,
                classes={name: pictures[:MOST_PICTURES] for name, pictures in classes.items()},
                ep=session.ep,
                threads=1,  # beside a camera loop
            )
            try:
                if sha256(session.model) != session.sha256:
                    raise InputError(f"{session.model} has changed since it was opened: have it reloaded first")
                self.lesson = Lesson(names, user, report=enroll(config))
            except TwincarError as error:
                self.lesson = Lesson(names, user, problem=str(error))

    def use(self, switch: Callable[[Path], object] | None) -> None:
        """Put the model of the last run in its place; the one before is kept beside it as `previous.onnx`.

        Args:
            switch: has the model at a path used from now on, and raises an error where that is refused;
                None where nothing can be switched.

        Raises:
            InputError: there is no new model, or it cannot be put there.
            TwincarError: it was refused; all is as before.
        """
        with self._alone():
            if self.lesson is None or self.lesson.report is None:
                raise InputError("there is no new model to use: learn first")
            try:
                make_folder(self.model.parent)
                had_one = self.model.exists()
                if had_one:
                    self.model.replace(self._previous)
                self._candidate.replace(self.model)
                try:
                    if switch is not None:
                        switch(self.model)
                except BaseException:
                    self.model.replace(self._candidate)
                    if had_one:
                        self._previous.replace(self.model)
                    raise
            except OSError as error:
                raise InputError(f"cannot write {self.model}: {error.strerror}") from error
            self.lesson = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise InputError("a new model is being made at this moment: wait until that is done")
        try:
            yield
        finally:
            self._busy.release()
