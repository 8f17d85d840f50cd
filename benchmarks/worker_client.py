"""The client of a worker: starts its process, calls it, and describes in one line how the process ended."""

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
EXIT_TIMEOUT_S = 5.0


class RowError(TwincarError):
    """A row could not be measured; the others are."""


class WorkerClient(Protocol):
    """Calls a `Worker` in a subprocess (`SubprocessClient`) or in this process (`InProcessClient`)."""

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Call the method `name` of the worker.

        Raises:
            TwincarError: the call fails.
        """

    def close(self) -> None:
        """End the worker."""


class InProcessClient:
    """A worker in this process, for tests that control its clock."""

    def __init__(self, worker: Worker) -> None:
        """Take the worker."""
        self._worker = worker

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Call the method `name` of the worker; the timeout is ignored."""
        return getattr(self._worker, name)(*arguments)

    def close(self) -> None:
        """Do nothing: there is no process to end."""


class SubprocessClient:
    """The client of a worker in a new process; a context manager.

    The process is stopped between calls, because threads that spin after their work would take a core from the next
    row.
    """

    def __init__(
        self,
        spec: RowSpec,
        images_bgr: Sequence[NDArray[np.uint8]],
        timeout_s: float,
        command: Sequence[str] = WORKER,
    ) -> None:
        """Start the process.

        Args:
            spec: the row.
            images_bgr: the images to time it on, uint8 [H, W, 3] each.
            timeout_s: the default timeout of calls.
            command: the command of the process.
        """
        self._timeout_s = timeout_s
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self._connection, theirs = Pipe()
        # The worker must import the same code as this process; -P keeps the current folder out of sys.path.
        root = str(Path(twincar_edge.__file__).resolve().parent.parent)
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C must reach only this process, which writes the report
            )
        self._pending_setup: tuple[RowSpec, Sequence[NDArray[np.uint8]]] | None = (spec, images_bgr)
        self._busy = False

    def __enter__(self) -> Self:
        """Return this client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Call a method of the worker, and wait for its reply.

        Raises:
            RowError: the call failed, the process ended, or the call timed out and the process was killed.
        """
        timeout_s = timeout_s or self._timeout_s
        self._busy = True
        self._process.send_signal(signal.SIGCONT)
        try:
            if self._pending_setup is not None:
                self._connection.send(self._pending_setup)
                self._pending_setup = None
            self._connection.send((name, arguments))
            if not self._connection.poll(timeout_s):
                self._process.kill()
                raise RowError(f"timed out after {timeout_s:g} s; its process was killed")
            done, result = self._connection.recv()
            self._busy = False
            self._process.send_signal(signal.SIGSTOP)
        except (EOFError, OSError) as error:
            raise RowError(self._describe_exit()) from error
        if not done:
            raise RowError(*result)
        return result

    def close(self) -> None:
        """End the process; kill it if a call is still running, as after Ctrl-C."""
        self._connection.close()
        self._process.send_signal(signal.SIGKILL if self._busy else signal.SIGCONT)
        try:
            self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _describe_exit(self) -> str:
        """Wait for the process to end, and return how it ended."""
        try:
            code = self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._output.seek(0)
        lines = self._output.read().decode("utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()[:300]}" if lines else ""
        if code == -signal.SIGKILL:
            return "its process was killed, probably because memory ran out"
        if code < 0:
            return f"its process crashed ({signal.Signals(-code).name}){last}"
        return f"its process exited with code {code}{last}"


def launch(spec: RowSpec, images_bgr: Sequence[NDArray[np.uint8]], timeout_s: float) -> WorkerClient:
    """Start the worker of a row in its own process."""
    return SubprocessClient(spec, images_bgr, timeout_s)
