"""The process of one row: `python -m twincar_edge.benchmarks.worker_process FD` serves a `Worker` over a socket.

Each request is the name of a method of `Worker` and its arguments. The reply is (True, result) or (False, parts of the
error message). The process ends when the client closes the socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from twincar_edge.benchmarks.worker import Worker
from twincar_edge.errors import TwincarError
from twincar_edge.memory import RESERVED_BYTES, available_bytes, limit_memory

PR_SET_PDEATHSIG = 1
OOM_SCORE = Path("/proc/self/oom_score_adj")


def main(arguments: list[str] | None = None) -> int:
    """Serve until the client closes the socket; return the exit code."""
    (handle,) = sys.argv[1:] if arguments is None else arguments
    if sys.platform == "linux":  # a process stopped between calls would outlive a killed parent
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):  # if memory runs out, the OOM killer should choose this process, not the parent
        OOM_SCORE.write_text("500")
    with Connection(int(handle)) as requests:
        try:
            spec, images_bgr = requests.recv()
            free = available_bytes()
            if free is not None and spec.on_cpu:  # GPU drivers reserve far more memory than they use
                limit_memory(max(free - RESERVED_BYTES, RESERVED_BYTES))
            worker = Worker(spec, images_bgr)
            while True:
                name, call_arguments = requests.recv()
                requests.send(_reply(worker, name, call_arguments))
        except EOFError:
            return 0


def _reply(worker: Worker, name: str, arguments: tuple[object, ...]) -> tuple[bool, object]:
    try:
        return True, getattr(worker, name)(*arguments)
    except TwincarError as error:
        return False, error.args
    except MemoryError:
        return False, ("out of memory",)


if __name__ == "__main__":
    sys.exit(main())
