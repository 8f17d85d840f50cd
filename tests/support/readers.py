"""Programs whose standard output or standard error has lost its reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def without_reader(
    folder: Path, *arguments: str, stream: str = "stdout", **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with a pipe as `stream` whose reader has gone; the result has the other stream."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: writer}
    try:
        return subprocess.run([sys.executable, *arguments], cwd=folder, text=True, env=os.environ | environ, **streams)
    finally:
        os.close(writer)
