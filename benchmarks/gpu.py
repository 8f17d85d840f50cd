"""What NVIDIA's own tool says of GPUs; nothing where there is none."""

from __future__ import annotations

import os
import subprocess

from twincar_edge.benchmarks.report import Gpu

TOOL = "nvidia-smi"
PATIENCE_S = 20


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine, none where the tool is missing or finds none."""
    return tuple(
        Gpu(name=name, memory_mb=_number(memory) or 0.0, driver=driver)
        for name, memory, driver in _query("--query-gpu=name,memory.total,driver_version", 3)
    )


def process_memory_mb(pid: int | None = None) -> float | None:
    """Return what a process (this one by default) holds on GPUs, in MB; None where nothing tells."""
    wanted = str(pid or os.getpid())
    found = [
        number
        for process, memory in _query("--query-compute-apps=pid,used_memory", 2)
        if process == wanted and (number := _number(memory)) is not None
    ]
    return sum(found) if found else None


def _query(question: str, columns: int) -> list[list[str]]:
    try:
        done = subprocess.run(
            [TOOL, question, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    lines = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [cells for cells in lines if len(cells) == columns]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # "[N/A]", on some of the tool's drivers
