"""Opens a model file and runs it in a process of its own, before the process of the camera loop does.

ONNX Runtime runs what a file says: a `Loop` without an end, or tensors that take all memory. A thread cannot be stopped
in it, so one such file would end all answers until the process is killed. A child process can be ended, and has limits
on its time and memory.

    python -m twincar_edge.runtime.rehearsal MODEL EP THREADS ALLOW_DRIFT LIMIT_S
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

import twincar_edge
from twincar_edge.errors import InputError, ModelError, Parameter, TwincarError
from twincar_edge.memory import RESERVED_BYTES, available_bytes, limit_memory
from twincar_edge.runtime.inference.golden_check import require_golden
from twincar_edge.runtime.inference.providers import PROVIDERS
from twincar_edge.runtime.inference.session import open_session

LIMIT_S = 120.0
ENGINE_LIMIT_S = 1800.0  # TensorRT builds its engine first, and keeps it for the next one who opens the file
MOST_BYTES = 2**30  # of memory, and for each byte of the file:
MOST_BYTES_A_BYTE = 10
MOST_REPLY_BYTES = 10_000
_NICE = 10
_PR_SET_PDEATHSIG = 1
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_REFUSED = 2


@dataclass(frozen=True)
class Rehearsal:
    """What is opened, and how: see `open_session` and `require_golden`."""

    model: Path
    ep: str
    threads: int
    allow_drift: bool = False

    @property
    def limit_s(self) -> float:
        """Return the longest time that it may take."""
        return ENGINE_LIMIT_S if self.ep == "tensorrt" else LIMIT_S


def rehearse(rehearsal: Rehearsal, stop: threading.Event, *, limit_s: float | None = None) -> None:
    """Open a model file in a process of its own, and run its golden inputs, or an empty picture where it has none.

    Args:
        rehearsal: the file.
        stop: ends the process, and raises an error.
        limit_s: the longest time, in place of the rehearsal's own.

    Raises:
        InputError: `stop` was set.
        ModelError: the file is refused, takes too long, or ends the process.
    """
    limit_s = limit_s or rehearsal.limit_s
    root = str(Path(twincar_edge.__file__).resolve().parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P keeps what lies in the current folder out.
    command = [sys.executable, "-P", "-m", __name__, str(rehearsal.model.absolute()), rehearsal.ep]
    command += [str(rehearsal.threads), str(int(rehearsal.allow_drift)), str(limit_s)]
    with tempfile.TemporaryFile() as reply:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=reply,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C and SIGHUP are for this process
        )
        try:
            code = _wait(process, stop, time.monotonic() + limit_s)
        finally:
            process.kill()
            process.wait()
        if code == 0:
            return
        if stop.is_set():
            raise InputError(f"the check of {rehearsal.model} was ended with the run")
        if code is None:
            raise ModelError(f"{rehearsal.model} was not opened and run within {limit_s:g} s: export it again")
        raise _refusal(rehearsal.model, code, reply)


def _wait(process: subprocess.Popen[bytes], stop: threading.Event, deadline_s: float) -> int | None:
    """Return the exit code, or None where the process has to be ended."""
    while (code := process.poll()) is None:
        if stop.wait(0.02) or time.monotonic() > deadline_s:
            return None
    return code


def _refusal(model: Path, code: int, reply: IO[bytes]) -> ModelError:
    """Return the error of a process that ended by itself."""
    if code == _REFUSED:
        reply.seek(0)
        try:
            parts = json.loads(reply.read(MOST_REPLY_BYTES))
            return ModelError(*(part if isinstance(part, str) else Parameter(*part) for part in parts))
        except (ValueError, TypeError):
            pass
    how = signal.Signals(-code).name if code < 0 else f"code {code}"
    return ModelError(f"{model} ended the process that tried it ({how}), as where memory runs out: export it again")


def main(arguments: Sequence[str]) -> int:
    """Open and run the file; return the exit code, after writing a refusal to standard output."""
    model, ep, threads, allow_drift, limit_s = arguments
    _limit(Path(model), ep, int(threads), float(limit_s))
    logging.disable()  # what is to be logged, the other process logs when it opens the file
    try:
        session = open_session(Path(model), ep=ep, threads=int(threads))
        if session.golden:
            require_golden(session, allow_drift == "1")
        else:
            width, height = session.manifest.preprocess.size_wh
            session.outputs(np.zeros((1, height, width, 3), np.uint8))
    except TwincarError as error:
        parts = [part if isinstance(part, str) else _parameter(part) for part in error.args]
        sys.stdout.write(json.dumps(parts))
        return _REFUSED
    except MemoryError:
        sys.stdout.write(json.dumps([f"{model} needs more memory than there is for it: export it again"]))
        return _REFUSED
    return 0


def _parameter(part: object) -> object:
    """Return a part of a message as JSON has it."""
    if isinstance(part, Parameter):
        return [part.name] if part.value is ... else [part.name, part.value]
    return str(part)


def _limit(model: Path, ep: str, threads: int, limit_s: float) -> None:
    """Set the limits of this process, and let it go first where memory runs out and last where cores do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        _OOM_SCORE.write_text("500")
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    seconds = int(limit_s * (threads + 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if PROVIDERS[ep].device == "cpu":  # a GPU's driver reserves more than there is, and uses little of it
        most = MOST_BYTES + MOST_BYTES_A_BYTE * model.stat().st_size
        free = available_bytes()
        limit_memory(most if free is None else min(most, max(free - RESERVED_BYTES, RESERVED_BYTES)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
