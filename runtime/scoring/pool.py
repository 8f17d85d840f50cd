"""Workers on this machine: one process per core, with the standard library only."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event

from twincar_edge.errors import InputError, Parameter
from twincar_edge.runtime.scoring.output import Counts
from twincar_edge.runtime.scoring.stage import Stage, StageConfig

ATTEMPTS = 3  # for a partition whose worker dies
_QUEUED = 2  # partitions per worker that are running or queued
# A process with ONNX Runtime's threads may hang after a fork.
_CONTEXT = multiprocessing.get_context("spawn")

# The state of a worker process.
_config: StageConfig | None = None
_stage: Stage | None = None


def score_locally(numbers: Iterable[int], config: StageConfig, workers: int) -> Generator[tuple[int, Counts]]:
    """Score partitions; yield the number and counts of each one after it is written.

    A single worker runs in this process. If one of several dies, for example from lack of memory, it is replaced and
    its partitions are retried.

    Raises:
        TwincarError: see `Stage`; or no worker could start, or that of a partition died in each of `ATTEMPTS` attempts.
    """
    if workers == 1:
        stage = Stage(config)
        yield from ((number, stage.score(number)) for number in numbers)
        return
    waiting = iter(numbers)
    deaths: Counter[int] = Counter()
    retries: list[int] = []
    started = _CONTEXT.Event()
    executor = _open(config, workers, started)
    running: dict[Future[Counts], int] = {}
    try:
        while True:
            # A dead worker fails all partitions in flight: retry them one at a time, to find the one that kills it.
            limit = 1 if retries else _QUEUED * workers
            while len(running) < limit and (number := retries.pop() if retries else next(waiting, None)) is not None:
                running[_submit(executor, number)] = number
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
                    deaths.update(lost)
                    if not started.is_set():  # each imports the caller's program first
                        raise InputError(
                            'no worker process could start: call `tw.score` under `if __name__ == "__main__":` in a '
                            "file, or use ",
                            Parameter("workers", 1),
                        ) from None
                    if len(lost) == 1 and deaths[number] >= ATTEMPTS:
                        raise InputError(
                            f"cannot score partition {number}: its worker died {deaths[number]} times, probably from "
                            "lack of memory; use fewer workers, or free memory"
                        ) from None
                    retries += lost
                    executor = _open(config, workers, started)
                    break
                yield number, counts
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _submit(executor: ProcessPoolExecutor, number: int) -> Future[Counts]:
    """Submit a partition; if a worker has died since the last result, return a future that has failed."""
    try:
        return executor.submit(_score, number)
    except BrokenProcessPool as error:
        failed: Future[Counts] = Future()
        failed.set_exception(error)
        return failed


def _open(config: StageConfig, workers: int, started: Event) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, _CONTEXT, initializer=_start_worker, initargs=(config, started))


def _start_worker(config: StageConfig, started: Event) -> None:
    """Prepare a worker process. It finishes its partition after Ctrl-C, and exits when the driver is killed."""
    global _config
    _config = config
    started.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, name="parent", daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(number: int) -> Counts:
    """Score a partition in a worker. The first call opens the model, so that its errors reach the caller."""
    global _stage
    if _stage is None:
        assert _config is not None
        _stage = Stage(_config)
    return _stage.score(number)
