"""Measures the memory of a process, limits it, and keeps it for reuse."""

from __future__ import annotations

import ctypes
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS = Path("/proc/self/status")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
RESERVED_BYTES = 2**29  # left to the other processes of this machine
# Parameters of glibc's mallopt (malloc.h): their number, the value that keeps freed memory, the value afterwards.
# Setting one ends glibc's adaptation of the thresholds, so afterwards they have the values that it would end with.
_MALLOC = (
    (-4, 0, 65_536),  # M_MMAP_MAX: how many blocks may be mapped one by one, and so returned when they are freed
    (-3, 2**25, 2**25),  # M_MMAP_THRESHOLD: the bytes of such blocks
    (-1, -1, 2**26),  # M_TRIM_THRESHOLD: how many free bytes at the end of the heap are returned; -1: never
    (-2, 2**26, 2**17),  # M_TOP_PAD: how many bytes to request at a time
)
_lock = threading.Lock()
_keepers = 0  # how many blocks of `freed_memory_kept` are running


def peak_memory_mb(status: Path = STATUS) -> float | None:
    """Return the peak resident memory of this process in MB, or None if it is not known.

    Not `ru_maxrss`, which on Linux starts with the memory of the parent process.
    """
    peak = _bytes(status, "VmHWM")
    return None if peak is None else peak / 2**20


def held_memory_mb(rollup: Path) -> tuple[float, float] | None:
    """Return the resident memory of a process and its anonymous part, in MB, or None if they are not known.

    Anonymous memory is what the process allocated; the rest are pages of files. Unlike private memory, it does not
    depend on which files other processes have open. `rollup` is the process's `/proc/PID/smaps_rollup`.
    """
    resident, anonymous = (_bytes(rollup, name) for name in ("Rss", "Anonymous"))
    return None if resident is None or anonymous is None else (resident / 2**20, anonymous / 2**20)


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Return the memory that this process can still allocate before the OOM killer acts, or None if not known."""
    found = [_bytes(meminfo, "MemAvailable")]
    try:
        limit, used = ((cgroup / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
        found.append(int(limit) - int(used))
    except (OSError, ValueError):  # no cgroup, or no limit ("max")
        pass
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def limit_memory(limit_bytes: int) -> None:
    """Make allocations of this process beyond `limit_bytes` fail, so that the OOM killer does not act.

    The limit applies to data, not to address space, so mapped files of libraries do not count.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory for the next allocation, instead of returning it to the kernel, in the whole process.

    A training step on a CPU allocates and frees blocks of a hundred megabytes. glibc maps each one anew, and the kernel
    clears every page of it, which took a quarter of the time of a training. After the last of such blocks, free
    memory is returned, and later blocks of more than 32 MiB are again. Without glibc, nothing changes.
    """
    global _keepers
    with _lock:
        _keepers += 1
        if _keepers == 1:
            _set_malloc(keeping=True)
    try:
        yield
    finally:
        with _lock:
            _keepers -= 1
            if not _keepers:
                _set_malloc(keeping=False)


def _set_malloc(*, keeping: bool) -> None:
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (OSError, TypeError, AttributeError):
        return  # another C library
    for number, during, afterwards in _MALLOC:
        mallopt(number, during if keeping else afterwards)
    if not keeping:
        trim(0)


def _bytes(path: Path, name: str) -> int | None:
    """Return a field of a file in /proc, whose values are in kB, as bytes."""
    try:
        lines = path.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
