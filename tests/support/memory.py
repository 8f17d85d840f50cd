"""Memory that code takes: what Python and numpy allocate here, or what reading a source takes in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import REPOSITORY

FRAMES = 12  # read from a source, at most


@dataclass(frozen=True)
class Reading:
    """What reading a source gave: `error` is its message or "", `mb` the peak memory beyond that of the imports."""

    frames: int
    skipped: int
    error: str
    mb: float


def read_source(spec: str | Path, *, most_frames: int = FRAMES, **options: Any) -> Reading:
    """Open a source in a separate process and read up to `most_frames`; `options` are those of `open_source`."""
    command = [sys.executable, "-m", "tests.support.memory", str(spec), json.dumps(options), str(most_frames)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Reading(**json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Trace what the block allocates; yield a function that returns the peak in bytes, also after the block."""
    peak = 0
    tracemalloc.start()
    try:
        yield lambda: peak
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _read_here(spec: str, options: dict[str, Any], most_frames: int) -> Reading:
    from twincar_edge.errors import TwincarError
    from twincar_edge.memory import peak_memory_mb
    from twincar_edge.runtime.sources import open_source

    base = peak_memory_mb()
    frames, skipped, error = 0, 0, ""
    try:
        with open_source(spec, **options) as source:
            for _ in source:
                frames += 1
                if frames == most_frames:
                    break
            skipped = source.skipped
    except TwincarError as raised:
        error = str(raised)
    peak = peak_memory_mb()
    assert base is not None and peak is not None
    return Reading(frames, skipped, error, peak - base)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(vars(_read_here(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])))))
