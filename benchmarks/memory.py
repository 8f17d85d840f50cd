"""How much memory a row used, and how much it may use before it must say that it does not fit."""

from __future__ import annotations

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
KEPT_BYTES = 2**29  # for everybody else on this machine


def peak_memory_mb(status: Path = STATUS) -> float | None:
    """Return the peak resident memory of this process in MB, None where the system does not tell.

    Not `ru_maxrss`: Linux starts that with what the parent held when it started this process.
    """
    peak = _bytes(status, "VmHWM")
    return None if peak is None else peak / 2**20


def held_memory_mb(rollup: Path) -> tuple[float, float] | None:
    """Return the resident memory of a process and the anonymous part of it, in MB; None where nothing tells.

    Anonymous is what it made itself: the rest are pages of files. Not what it shares with nobody, which changes with
    what other processes open. `rollup` is its `/proc/PID/smaps_rollup`.
    """
    resident, anonymous = (_bytes(rollup, name) for name in ("Rss", "Anonymous"))
    return None if resident is None or anonymous is None else (resident / 2**20, anonymous / 2**20)


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Return what this process may still take before the system kills somebody, None where nothing tells."""
    found = [_bytes(meminfo, "MemAvailable")]
    try:
        limit, used = ((cgroup / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
        found.append(int(limit) - int(used))
    except (OSError, ValueError):  # no such limit, which is written "max"
        pass
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def limit_memory(limit_bytes: int) -> None:
    """Let allocations of this process beyond `limit_bytes` fail: the row then says so, and nobody is killed.

    What is counted is data, not address space: a library's mapped file takes none of it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = limit_bytes if most == resource.RLIM_INFINITY else min(limit_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def _bytes(path: Path, name: str) -> int | None:
    """Return a field of one of the kernel's files, which are in kB."""
    try:
        lines = path.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
