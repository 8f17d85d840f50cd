"""How many cores this process may use, and the priority of its threads.

`os.cpu_count()` counts all cores of the board. A container or a systemd unit may allow fewer, by affinity or by a
cgroup CPU quota. ONNX Runtime ignores the quota, starts a thread per core of the board, and stalls.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")

_NICENESS = 10  # leaves about a tenth of the CPU time if both threads compete for a core


def usable_cores(cgroup_root: Path = CGROUP_ROOT) -> int:
    """Return the number of cores that affinity and the cgroup quota (version 2 or 1) allow, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup_root)
    return max(1, cores if quota is None else min(cores, int(quota)))


def inference_threads() -> int:
    """Return the number of inference threads: all usable cores but one, which decodes and locates; at least 1.

    With one thread more, inference and cameras compete for cores, and both get slower.
    """
    return max(1, usable_cores() - 1)


def lower_priority() -> None:
    """Lower the priority of this thread, and of those that it starts, below the other threads of the process.

    Use it for work that can wait: encoding, or reading ahead of a busy model. Only Linux supports this for threads.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            # On Linux, 0 is the calling thread, not the process.
            os.setpriority(os.PRIO_PROCESS, 0, min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS))


def _quota(root: Path) -> float | None:
    """Return the quota in cores, or None without a quota."""
    limit, period = _words(root / "cpu.max") or _words_v1(root / "cpu")
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # version 2 writes "max" for no quota, version 1 writes -1
    return int(limit) / int(period)


def _words(path: Path) -> tuple[str, str] | None:
    try:
        limit, period = path.read_text("ascii").split()
    except (OSError, ValueError):
        return None
    return limit, period


def _words_v1(folder: Path) -> tuple[str, str]:
    try:
        return (
            (folder / "cpu.cfs_quota_us").read_text("ascii").strip(),
            (folder / "cpu.cfs_period_us").read_text("ascii").strip(),
        )
    except (OSError, ValueError):
        return "max", ""
