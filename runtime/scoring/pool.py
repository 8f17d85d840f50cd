"""Workers on this machine: a process for each core, without any further package."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from twincar_edge.errors import InputError
from twincar_edge.runtime.scoring.output import Counts
from twincar_edge.runtime.scoring.stage import Stage, StageConfig

ATTEMPTS = 3  # at a partition whose worker dies
_AHEAD = 2  # partitions that are handed out for each worker

# Of a worker.
_config: StageConfig | None = None
_stage: Stage | None = None


def score_locally(numbers: Iterable[int], config: StageConfig, workers: int) -> Generator[tuple[int, Counts]]:
    """Score partitions and yield each one's number and counts as it is written.

    A single worker is this process itself. One of several that dies, killed for memory for example, is replaced, and
    its partitions are tried again.

    Raises:
        TwincarError: see `Stage`; or a partition was tried `ATTEMPTS` times, and each time a worker died.
    """
    if workers == 1:
        stage = Stage(config)
        yield from ((number, stage.score(number)) for number in numbers)
        return
    waiting = iter(numbers)
    died: Counter[int] = Counter()
    again: list[int] = []
    executor = _open(config, workers)
    running: dict[Future[Counts], int] = {}
    try:
        while True:
            # After a death one at a time, until it is known whose it was.
            ahead = 1 if again else _AHEAD * workers
            while len(running) < ahead and (number := again.pop() if again else next(waiting, None)) is not None:
                running[executor.submit(_score, number)] = number
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                try:
                    counts = future.result()
                except BrokenProcessPool:
                    lost = [number, *running.values()]
                    running.clear()
                    executor.shutdown(wait=True, cancel_futures=True)
                    died.update(lost)
                    if len(lost) == 1 and died[number] >= ATTEMPTS:
                        raise InputError(
                            f"partition {number} cannot be scored: its worker died {died[number]} times; "
                            "it may need more memory than there is"
                        ) from None
                    again += lost
                    executor = _open(config, workers)
                    break
                yield number, counts
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _open(config: StageConfig, workers: int) -> ProcessPoolExecutor:
    # A fork of a process with ONNX Runtime's threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_remember, initargs=(config,))


def _remember(config: StageConfig) -> None:
    """Prepare a worker: Ctrl-C lets it write its partition, and it ends when the driver is killed."""
    global _config
    _config = config
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(number: int) -> Counts:
    """Score a partition in a worker; the first one opens the model, whose errors so reach the caller."""
    global _stage
    if _stage is None:
        assert _config is not None
        _stage = Stage(_config)
    return _stage.score(number)
