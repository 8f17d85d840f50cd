"""Replaces the model while the loop runs: the new file is opened, checked, and then swapped in."""

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
from twincar_edge.runtime.subprocess_check import ModelCheck, check_in_subprocess
from twincar_edge.runtime.supervised import SupervisedThread
from twincar_edge.trust import ANY, Trust

logger = logging.getLogger(__name__)

ReloadOutcome = Literal["taken", "unchanged", "refused"]
OUTCOMES: tuple[ReloadOutcome, ...] = get_args(ReloadOutcome)
SETTLE_S = 1.0
ATTEMPTS = 30


@dataclass(frozen=True, eq=False)
class _Request:
    """A request to load a file; None reloads the current path. `result` is set if a caller waits for the outcome."""

    path: Path | None = None
    result: Future[ReloadOutcome] | None = None

    def refuse(self, error: BaseException) -> None:
        """Raise the error in the waiting caller, if there is one."""
        if self.result is not None and not self.result.done():
            self.result.set_exception(error)


class ModelReloader:
    """Reloads the model file on request, in its own thread, if the file passes the same checks as at the start.

    The file must open on the same provider and answer its golden inputs as at export, first in a child process. Its
    classes may differ. If a check fails, the file is refused with one line in the log, and the old model stays in use.
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
        """Store the settings; the thread is not started yet.

        Args:
            session: the model in use. The new one is read from the same path, and opened with the same options.
            use: called with the new model, in the reloader's thread.
            spinning: see `open_session`.
            allow_drift: see `require_golden`.
            trust: which files may be used.
            notifier: reports the reload to systemd.
            settle_s: the delay before a retry if the file changed while it was read.
            attempts: the most attempts to read such a file.
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
        """Stop the thread; a model that is being opened is discarded."""
        self._stop.set()
        self._requests.put(None)
        self._thread.join()
        while not self._requests.empty():
            if (pending := self._requests.get()) is not None:
                pending.refuse(_stopped())

    def request(self) -> None:
        """Request a reload. Returns at once, and may be called from a signal handler."""
        self._requests.put(_Request())

    def switch(self, path: Path) -> ReloadOutcome:
        """Switch to another model file if it passes the checks, and wait for the outcome. Later reloads read it too.

        Raises:
            TwincarError: the file was refused; the old model stays in use.
        """
        result: Future[ReloadOutcome] = Future()
        self._requests.put(_Request(path, result))
        if self._stop.is_set():  # the thread may never read the request
            raise _stopped()
        return result.result()

    def check(self, path: Path) -> None:
        """Check another model file as `switch` does, and change nothing.

        Raises:
            TwincarError: the file would be refused.
        """
        self._checked(path)

    def counts(self) -> Mapping[str, int]:
        """Return the number of requests by outcome."""
        return {outcome: self._counts[outcome] for outcome in OUTCOMES}

    def faults(self) -> list[str]:
        """Describe a recent failure of the thread, if there was one."""
        return [] if self._thread.problem is None else [self._thread.problem]

    def _run(self) -> None:
        while (first := self._requests.get()) is not None:
            pending = [first]
            while not self._requests.empty():
                if (one := self._requests.get()) is None:
                    for request in pending:
                        request.refuse(_stopped())
                    return
                pending.append(one)
            try:
                for path in dict.fromkeys(request.path for request in pending):  # one reload for all requests of a file
                    with self._notifier.reloading():
                        self._serve(path, [request for request in pending if request.path == path])
            except Exception as error:  # a bug, which restarts the thread: no caller may wait for an answer
                self._counts["refused"] += 1
                for request in pending:
                    request.refuse(error)
                raise

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
            if request.result is not None:
                request.result.set_result(outcome)

    def _reload(self, path: Path) -> ReloadOutcome:
        session = self._open(path)
        if session is None:
            logger.warning("model file %s is unchanged (%s)", path, self._session.sha256[:12])
            return "unchanged"
        if self._stop.is_set():
            raise _stopped()
        self._use(Classifier(session))
        # A warning, so that the outcome is logged even at the level WARNING.
        logger.warning("new model %s%s", _described(session), _class_changes(self._session, session))
        self._session = session
        return "taken"

    def _open(self, path: Path) -> ModelSession | None:
        """Open and check the file, or return None if it is the one in use.

        The file is read several times, so its digest must be the same before and after. If it changes, the file is
        still being written, and is read again after a delay.
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
        """Open a file after these checks: trust, golden inputs if the old model has them, and a run in a child process.

        Raises:
            TwincarError: a check failed.
        """
        old = self._session
        file = read_model_file(path)
        self._trust.check(file)
        if old.golden and GOLDEN_KEY not in file.metadata:
            raise ModelError(f"{path} has no golden inputs, but the model in use has: export it again")
        check_in_subprocess(ModelCheck(path, old.ep, old.threads, self._allow_drift), self._stop)
        session = open_session(path, ep=old.ep, threads=old.threads, spinning=self._spinning, trust=self._trust)
        require_golden(session, self._allow_drift)
        return session


def _stopped() -> InputError:
    return InputError("cannot replace the model: the run has ended")


def _described(session: ModelSession) -> str:
    manifest = session.manifest
    return f"{manifest.name} ({session.sha256[:12]}, {manifest.precision}, {len(session.classes)} classes)"


def _class_changes(old: ModelSession, new: ModelSession) -> str:
    before, after = set(old.classes), set(new.classes)
    if before == after:
        return ""
    return f": {len(after - before)} classes added, {len(before - after)} removed"
