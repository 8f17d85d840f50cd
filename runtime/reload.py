"""Replaces the model while the loop runs: the new file is opened beside the old one, checked, and then swapped in."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from twincar_edge.errors import InputError, ModelError, TwincarError
from twincar_edge.files import sha256
from twincar_edge.golden import GOLDEN_KEY
from twincar_edge.model_file import read_model_file
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.golden_check import require_golden
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.runtime.monitoring.systemd import Notifier
from twincar_edge.runtime.rehearsal import Rehearsal, rehearse
from twincar_edge.runtime.supervised import SupervisedThread
from twincar_edge.trust import ANY, Trust

logger = logging.getLogger(__name__)

ReloadOutcome = Literal["taken", "unchanged", "refused"]
OUTCOMES: tuple[ReloadOutcome, ...] = get_args(ReloadOutcome)
SETTLE_S = 1.0
ATTEMPTS = 30


@dataclass(frozen=True, eq=False)
class _Request:
    """A request to read a file, or the one in use again; `answer` tells who waits for the outcome."""

    path: Path | None = None
    answer: Future[ReloadOutcome] | None = None

    def refuse(self, error: BaseException) -> None:
        """Raise an error where the outcome is waited for."""
        if self.answer is not None:
            self.answer.set_exception(error)


class ModelReloader:
    """Reloads the model file on request, in a thread of its own, if the file passes the checks of a start.

    It must open on the same provider, and answer its golden inputs as it did at export, first in a process of its own;
    its classes may differ. A file that fails is refused with one line in the log, and the old model stays in use.
    """

    def __init__(
        self,
        session: ModelSession,
        use: Callable[[Classifier], None],
        *,
        spinning: bool = False,
        allow_drift: bool = False,
        trust: Trust = ANY,
        notifier: Notifier | None = None,
        settle_s: float = SETTLE_S,
        attempts: int = ATTEMPTS,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            session: the model in use. The new one is read from the same path, and opened with the same options.
            use: takes the new model; called from the reloader's thread.
            spinning: see `open_session`.
            allow_drift: see `require_golden`.
            trust: which files may be used.
            notifier: reports the reload to systemd.
            settle_s: the wait before a file that changed while it was read is read again.
            attempts: how often to read such a file.
        """
        self._session = session
        self._use = use
        self._spinning = spinning
        self._allow_drift = allow_drift
        self._trust = trust
        self._notifier = notifier or Notifier()
        self._settle_s = settle_s
        self._attempts = attempts
        self._counts: Counter[ReloadOutcome] = Counter()
        # SimpleQueue.put is reentrant, as a signal handler needs; threading.Event.set is not. None ends the thread.
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = SupervisedThread(self._run, "reload", pause=self._stop.wait)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the thread; a model that is being opened at this moment is not taken."""
        self._stop.set()
        self._requests.put(None)
        self._thread.join()
        while not self._requests.empty():
            if (left := self._requests.get()) is not None:
                left.refuse(_stopped())

    def request(self) -> None:
        """Request a reload. Returns at once, and may be called from a signal handler."""
        self._requests.put(_Request())

    def switch(self, path: Path) -> ReloadOutcome:
        """Use the model in another file, if it passes the checks; it is the file of later reloads too. Waits for that.

        Raises:
            TwincarError: the file was refused; the old model stays in use.
        """
        answer: Future[ReloadOutcome] = Future()
        self._requests.put(_Request(path, answer))
        if self._stop.is_set():  # nobody may read the request any more
            raise _stopped()
        return answer.result()

    def counts(self) -> Mapping[str, int]:
        """Return the number of requests by outcome."""
        return {outcome: self._counts[outcome] for outcome in OUTCOMES}

    def faults(self) -> list[str]:
        """Return that its thread has failed a short while ago, in words."""
        return [] if self._thread.problem is None else [self._thread.problem]

    def _run(self) -> None:
        while (first := self._requests.get()) is not None:
            waiting = [first]
            while not self._requests.empty():
                if (one := self._requests.get()) is None:
                    for left in waiting:
                        left.refuse(_stopped())
                    return
                waiting.append(one)
            for path in dict.fromkeys(request.path for request in waiting):  # one reload serves all that want this file
                with self._notifier.reloading():
                    self._serve(path, [request for request in waiting if request.path == path])

    def _serve(self, path: Path | None, requests: Sequence[_Request]) -> None:
        try:
            outcome = self._reload(path or self._session.model)
        except (TwincarError, OSError, MemoryError) as error:
            old = self._session
            logger.error("new model refused, %s (%s) stays in use: %s", old.manifest.name, old.sha256[:12], error)
            self._counts["refused"] += 1
            for request in requests:
                request.refuse(error)
            return
        self._counts[outcome] += 1
        for request in requests:
            if request.answer is not None:
                request.answer.set_result(outcome)

    def _reload(self, path: Path) -> ReloadOutcome:
        session = self._open(path)
        if session is None:
            logger.warning("model file %s is unchanged (%s)", path, self._session.sha256[:12])
            return "unchanged"
        if self._stop.is_set():
            raise _stopped()
        self._use(Classifier(session))
        # A warning, so that the log has the outcome even if it shows warnings only.
        logger.warning("new model %s%s", _described(session), _class_changes(self._session, session))
        self._session = session
        return "taken"

    def _open(self, path: Path) -> ModelSession | None:
        """Open and check the file, or return None where it is the one in use.

        The file is read several times, so it must be the same before and after. One that changes meanwhile is still
        being written, and is read again after a while.
        """
        for _ in range(self._attempts):
            before = sha256(path)
            if before == self._session.sha256:
                return None
            fault: TwincarError | OSError | None = None
            try:
                session = self._checked(path)
            except (TwincarError, OSError) as error:
                fault = error
            if sha256(path) == before:
                if fault is not None:
                    raise fault
                return session
            if self._stop.wait(self._settle_s):
                break
        raise InputError(f"{path} keeps changing while it is read: request the reload when it is complete")

    def _checked(self, path: Path) -> ModelSession:
        """Open a file that may be used, has what the model in use has, and has passed its checks in another process."""
        old = self._session
        file = read_model_file(path)
        self._trust.check(file)
        if old.golden and GOLDEN_KEY not in file.metadata:
            raise ModelError(f"{path} carries no golden inputs, and the model in use does: export it again")
        rehearse(Rehearsal(path, old.ep, old.threads, self._allow_drift), self._stop)
        session = open_session(path, ep=old.ep, threads=old.threads, spinning=self._spinning, trust=self._trust)
        require_golden(session, self._allow_drift)
        return session


def _stopped() -> InputError:
    return InputError("the loop has ended: its model is no longer replaced")


def _described(session: ModelSession) -> str:
    manifest = session.manifest
    return f"{manifest.name} ({session.sha256[:12]}, {manifest.precision}, {len(session.classes)} classes)"


def _class_changes(old: ModelSession, new: ModelSession) -> str:
    before, after = set(old.classes), set(new.classes)
    if before == after:
        return ""
    return f": {len(after - before)} classes added, {len(before - after)} removed"
