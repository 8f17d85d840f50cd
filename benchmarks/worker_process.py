"""The process of one row: `python -m twincar_edge.benchmarks.worker_process FD` serves a `Worker` over a socket.

Each request is the name of a method of `Worker` and its arguments; the reply is (True, result) or (False, parts
of an error's message). The process ends when the client closes the socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from twincar_edge.benchmarks.memory import KEPT_BYTES, available_bytes, limit_memory
from twincar_edge.benchmarks.worker import Worker
from twincar_edge.errors import TwincarError

PR_SET_PDEATHSIG = 1
OOM_SCORE = Path("/proc/self/oom_score_adj")


def main(arguments: list[str] | None = None) -> int:
    """Serve until the client closes the socket; returns the exit code."""
    (handle,) = sys.argv[1:] if arguments is None else arguments
    if sys.platform == "linux":  # stopped between calls, it would outlive a parent that is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):  # where memory runs out, it is this row that goes, not the report
        OOM_SCORE.write_text("500")
    with Connection(int(handle)) as requests:
        try:
            spec, images_bgr = requests.recv()
            free = available_bytes()
            if free is not None and spec.on_cpu:  # a GPU's driver reserves more than there is, and uses little of it
                limit_memory(max(free - KEPT_BYTES, KEPT_BYTES))
            worker = Worker(spec, images_bgr)
            while True:
                name, arguments_of = requests.recv()
                requests.send(_answer(worker, name, arguments_of))
        except EOFError:
            return 0


def _answer(worker: Worker, name: str, arguments: tuple[object, ...]) -> tuple[bool, object]:
    try:
        return True, getattr(worker, name)(*arguments)
    except TwincarError as error:
        return False, error.args
    except MemoryError:
        return False, ("memory ran out",)


if __name__ == "__main__":
    sys.exit(main())
