"""Checks a model file in a child process, before the process of the camera loop opens it.

A model file can contain an endless `Loop`, or tensors that use up all memory. A thread that runs ONNX Runtime cannot be
stopped, so such a file would block all answers until the process is killed. A child process can be killed, and has
limits on its time and memory.

    python -m twincar_edge.runtime.subprocess_check MODEL EP THREADS ALLOW_DRIFT LIMIT_S
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
ENGINE_LIMIT_S = 1800.0  # TensorRT first builds its engine; it is cached, so the loop opens the file quickly
MAX_BYTES = 2**30  # of memory,
MAX_BYTES_PER_FILE_BYTE = 10  # plus this much for each byte of the file
MAX_REPLY_BYTES = 10_000
_NICE = 10
_PR_SET_PDEATHSIG = 1
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_REFUSED = 2


@dataclass(frozen=True)
class ModelCheck:
    """The file to check and how to open it; see `open_session` and `require_golden`."""

    model: Path
    ep: str
    threads: int
    allow_drift: bool = False

    @property
    def limit_s(self) -> float:
        """Return the time limit of the check."""
        return ENGINE_LIMIT_S if self.ep == "tensorrt" else LIMIT_S


def check_in_subprocess(check: ModelCheck, stop: threading.Event, *, limit_s: float | None = None) -> None:
    """Open a model file in a child process, and run its golden inputs, or a black image if it has none.

    Args:
        check: the file and its options.
        stop: cancels the check.
        limit_s: the time limit; by default `ModelCheck.limit_s`.

    Raises:
        InputError: `stop` was set.
        ModelError: the file fails its checks, takes too long, or crashes the process.
    """
    limit_s = limit_s or check.limit_s
    root = str(Path(twincar_edge.__file__).resolve().parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P keeps modules in the current folder from being imported.
    command = [sys.executable, "-P", "-m", __name__, str(check.model.absolute()), check.ep]
    command += [str(check.threads), str(int(check.allow_drift)), str(limit_s)]
    with tempfile.TemporaryFile() as reply:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=reply,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # so that only this process gets Ctrl-C and SIGHUP
        )
        try:
            code = _wait(process, stop, time.monotonic() + limit_s)
        finally:
            process.kill()
            process.wait()
        if code == 0:
            return
        if stop.is_set():
            raise InputError(f"the check of {check.model} was canceled because the run ended")
        if code is None:
            raise ModelError(f"the check of {check.model} timed out after {limit_s:g} s: export it again")
        raise _refusal(check.model, code, reply)


def _wait(process: subprocess.Popen[bytes], stop: threading.Event, deadline_s: float) -> int | None:
    """Return the exit code, or None if the process must be killed."""
    while (code := process.poll()) is None:
        if stop.wait(0.02) or time.monotonic() > deadline_s:
            return None
    return code


def _refusal(model: Path, code: int, reply: IO[bytes]) -> ModelError:
    """Return the error of a process that failed or crashed."""
    if code == _REFUSED:
        reply.seek(0)
        try:
            parts = json.loads(reply.read(MAX_REPLY_BYTES))
            return ModelError(*(part if isinstance(part, str) else Parameter(*part) for part in parts))
        except (ValueError, TypeError):
            pass
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return ModelError(f"{model} crashed the process that checked it ({how}), perhaps out of memory: export it again")


def main(arguments: Sequence[str]) -> int:
    """Open and run the file; write an error to standard output as JSON, and return the exit code."""
    model, ep, threads, allow_drift, limit_s = arguments
    _limit(Path(model), ep, int(threads), float(limit_s))
    logging.disable()  # the parent logs the same when it opens the file
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
        sys.stdout.write(json.dumps([f"{model} needs more memory than this machine has free: export it again"]))
        return _REFUSED
    return 0


def _parameter(part: object) -> object:
    """Return a part of a message in a form that JSON can encode."""
    if isinstance(part, Parameter):
        return [part.name] if part.value is ... else [part.name, part.value]
    return str(part)


def _limit(model: Path, ep: str, threads: int, limit_s: float) -> None:
    """Limit this process. The kernel kills it first when memory runs out, and schedules it last."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        _OOM_SCORE.write_text("500")
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    seconds = int(limit_s * (threads + 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if PROVIDERS[ep].device == "cpu":  # GPU drivers reserve more address space than there is memory
        limit = MAX_BYTES + MAX_BYTES_PER_FILE_BYTE * model.stat().st_size
        free = available_bytes()
        limit_memory(limit if free is None else min(limit, max(free - RESERVED_BYTES, RESERVED_BYTES)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
