"""Learns new classes from pictures that users named, and activates the new model once they have reviewed its report."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.files import make_folder, replacing, sha256
from twincar_edge.runtime.enroll import EnrollConfig, EnrollReport, enroll
from twincar_edge.runtime.inference.session import ModelSession

MIN_PICTURES = 2
MAX_PICTURES = 200  # per class, the newest; more hardly improve the mean embedding
MAX_CLASSES = 50  # per run


@dataclass(frozen=True)
class LearningRun:
    """The result of a run.

    Attributes:
        names: the requested classes.
        user: the user who requested the run.
        report: the report; None after a failure.
        sha256: the digest of the new model, which identifies the run; empty after a failure.
        problem: the reason of a failure, in one line, or None.
    """

    names: tuple[str, ...]
    user: str
    report: EnrollReport | None = None
    sha256: str = ""
    problem: str | None = None


class OtherRunError(InputError):
    """Another run has replaced the one that the user reviewed."""


class Learner:
    """Runs `enroll`, one run at a time, and stores the new model until a user activates it.

    Attributes:
        model: the path of the active model, which is constant, so that `watch` can be started with it.
        last_run: the last run, or None.
    """

    def __init__(self, state: Path) -> None:
        """Use the state folder."""
        self.model = state / "models" / "learned.onnx"
        self.last_run: LearningRun | None = None
        self._candidate = self.model.with_name("candidate.onnx")
        self._previous = self.model.with_name("previous.onnx")
        self._busy = threading.Lock()

    def learn(self, session: ModelSession, classes: Mapping[str, Sequence[Path]], user: str) -> None:
        """Create a model with more classes, and store the result, or the failure, as `last_run`.

        Args:
            session: the current model, to which classes are added.
            classes: the pictures of each new class by name, newest first.
            user: the user who requests the run.

        Raises:
            InputError: another run is in progress, or there are too many classes.
        """
        if not 1 <= len(classes) <= MAX_CLASSES:
            raise InputError(f"choose 1 to {MAX_CLASSES} classes to learn, found {len(classes)}")
        with self._exclusive():
            self.last_run = None
            names = tuple(classes)
            config = EnrollConfig(
                output=self._candidate,
                model=session.model,
                classes={name: pictures[:MAX_PICTURES] for name, pictures in classes.items()},
                ep=session.ep,
                threads=1,  # a camera loop runs at the same time
            )
            try:
                if sha256(session.model) != session.sha256:
                    raise InputError(f"{session.model} changed after it was opened: reload it first")
                report = enroll(config)
                self.last_run = LearningRun(names, user, report, sha256(self._candidate))
            except TwincarError as error:
                self.last_run = LearningRun(names, user, problem=str(error))

    def use(
        self,
        reviewed: str,
        switch: Callable[[Path], object] | None,
        check: Callable[[Path], object] | None = None,
    ) -> None:
        """Activate the model of the last run; the former one remains next to it as `previous.onnx`.

        Args:
            reviewed: `LearningRun.sha256` of the run that the user reviewed.
            switch: switches the running loop to the model at a path, and raises an error if the model is rejected; None
                without a running loop.
            check: checks the model at a path as `switch` does. A model that it rejects never becomes the active one, on
                which the next start depends.

        Raises:
            InputError: there is no new model, or it cannot be moved.
            OtherRunError: the last run is not the reviewed one.
            TwincarError: the model was rejected, and the former one restored.
        """
        with self._exclusive():
            if self.last_run is None or self.last_run.report is None:
                raise InputError("no new model to use: learn one first")
            if self.last_run.sha256 != reviewed:
                raise OtherRunError("Another model has been learned since you reviewed this one: review it first.")
            if check is not None:
                check(self._candidate)
            try:
                make_folder(self.model.parent)
                had_one = self.model.exists()
                if had_one:  # copied, so that the active model exists whatever fails
                    with replacing(self._previous) as temporary:
                        shutil.copyfile(self.model, temporary)
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
            self.last_run = None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise InputError("another run is in progress: wait until it has finished")
        try:
            yield
        finally:
            self._busy.release()
