"""The client of a worker: starts its process, calls it, and reports in one line how the process ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

import twincar_edge
from twincar_edge.benchmarks.config import RowSpec
from twincar_edge.benchmarks.worker import Worker
from twincar_edge.errors import TwincarError

WORKER = (sys.executable, "-P", "-m", "twincar_edge.benchmarks.worker_process")
PATIENCE_S = 5.0  # for a worker that was told to end


class RowError(TwincarError):
    """A row has no figures, for the reason given; the others go on."""


class WorkerClient(Protocol):
    """Calls a `Worker`: in a process of its own (`SubprocessClient`), or in this one (`InProcessClient`)."""

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Call the method `name` of the worker.

        Raises:
            TwincarError: it fails.
        """

    def close(self) -> None:
        """End the worker."""


class InProcessClient:
    """A worker in this process, for tests that control its clock."""

    def __init__(self, worker: Worker) -> None:
        """Take the worker."""
        self._worker = worker

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Call it."""
        return getattr(self._worker, name)(*arguments)

    def close(self) -> None:
        """Nothing to end."""


class SubprocessClient:
    """A worker in a fresh process, a context manager.

    Between calls the process is stopped: threads that spin for a while when their work is done would take a core from
    the next row.
    """

    def __init__(
        self,
        spec: RowSpec,
        images_bgr: Sequence[NDArray[np.uint8]],
        timeout_s: float,
        command: Sequence[str] = WORKER,
    ) -> None:
        """Start the process; `timeout_s` is how long a call may take, `command` what is started."""
        self._timeout_s = timeout_s
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self._ours, theirs = Pipe()
        # The same code as here, however this one came to be found; -P keeps what lies in the current folder out.
        root = str(Path(twincar_edge.__file__).resolve().parent.parent)
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C is for the report
            )
        self._begin: tuple[RowSpec, Sequence[NDArray[np.uint8]]] | None = (spec, images_bgr)
        self._busy = False

    def __enter__(self) -> Self:
        """Return the worker, which is running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Call a method of the worker, and wait for its reply.

        Raises:
            RowError: it failed, its process ended, or it gave no answer in time and was ended.
        """
        patience_s = timeout_s or self._timeout_s
        self._busy = True
        self._process.send_signal(signal.SIGCONT)
        try:
            if self._begin is not None:
                self._ours.send(self._begin)
                self._begin = None
            self._ours.send((name, arguments))
            if not self._ours.poll(patience_s):
                self._process.kill()
                raise RowError(f"gave no answer for {patience_s:g} s, and was ended")
            done, result = self._ours.recv()
            self._busy = False
            self._process.send_signal(signal.SIGSTOP)
        except (EOFError, OSError) as error:
            raise RowError(self._end()) from error
        if not done:
            raise RowError(*result)
        return result

    def close(self) -> None:
        """End the process: at once where it is still at work, as after Ctrl-C."""
        self._ours.close()
        self._process.send_signal(signal.SIGKILL if self._busy else signal.SIGCONT)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.close()

    def _end(self) -> str:
        """Say how the process ended."""
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._words.seek(0)
        lines = self._words.read().decode("utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()[:300]}" if lines else ""
        if code == -signal.SIGKILL:
            return "its process was killed, as the system does where memory runs out"
        if code < 0:
            return f"its process crashed ({signal.Signals(-code).name}){last}"
        return f"its process ended with code {code}{last}"


def launch(spec: RowSpec, images_bgr: Sequence[NDArray[np.uint8]], timeout_s: float) -> WorkerClient:
    """Start a row in a process of its own."""
    return SubprocessClient(spec, images_bgr, timeout_s)
