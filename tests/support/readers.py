"""Programs whose standard output has lost its reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def without_reader(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a pipe as standard output whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environ,
        )
    finally:
        os.close(writer)
