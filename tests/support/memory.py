"""What a source makes a process take, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import REPOSITORY

FRAMES = 12  # that are taken of a source, at most


@dataclass(frozen=True)
class Taken:
    """How reading a source went: `error` is its one line or "", and `mb` the peak beyond what importing took."""

    frames: int
    skipped: int
    error: str
    mb: float


def take(spec: str | Path, **options: Any) -> Taken:
    """Open a source in a process of its own and take some frames of it; `options` are `open_source`'s."""
    command = [sys.executable, "-m", "tests.support.memory", str(spec), json.dumps(options)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Taken(**json.loads(done.stdout.splitlines()[-1]))


def _take(spec: str, options: dict[str, Any]) -> Taken:
    from twincar_edge.errors import TwincarError
    from twincar_edge.memory import peak_memory_mb
    from twincar_edge.runtime.sources import open_source

    base = peak_memory_mb()
    frames, skipped, error = 0, 0, ""
    try:
        with open_source(spec, **options) as source:
            for _ in source:
                frames += 1
                if frames == FRAMES:
                    break
            skipped = source.skipped
    except TwincarError as raised:
        error = str(raised)
    peak = peak_memory_mb()
    assert base is not None and peak is not None
    return Taken(frames, skipped, error, peak - base)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(vars(_take(sys.argv[1], json.loads(sys.argv[2])))))
