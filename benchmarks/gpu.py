"""Queries GPUs with nvidia-smi."""

from __future__ import annotations

import os
import subprocess

from twincar_edge.benchmarks.report import Gpu

TOOL = "nvidia-smi"
TIMEOUT_S = 20


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine; empty if nvidia-smi is missing or finds none."""
    return tuple(
        Gpu(name=name, memory_mb=_number(memory) or 0.0, driver=driver)
        for name, memory, driver in _query("--query-gpu=name,memory.total,driver_version", 3)
    )


def process_memory_mb(pid: int | None = None) -> float | None:
    """Return the GPU memory of a process (by default this one), in MB, or None if it is not known."""
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
            [TOOL, question, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=TIMEOUT_S
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
        return None  # some drivers report "[N/A]"
