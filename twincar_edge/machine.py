"""Describes the machine of a measurement or a training run."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from twincar_edge import __version__
from twincar_edge.cores import usable_cores
from twincar_edge.records import Record

CPUINFO = Path("/proc/cpuinfo")

# The instruction sets that determine the speed of INT8 and, on x86 without VNNI, its accuracy.
RELEVANT_FLAGS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16",  # x86
    "asimd", "asimddp", "i8mm", "sve", "sve2",  # Arm
)  # fmt: skip


# x86 instruction sets that accumulate 8-bit products in 32 bits, which cannot overflow; all others use 16.
EXACT_ON_X86 = ("avx_vnni", "avx512_vnni", "amx_int8")


class Machine(Record):
    """A machine: processor, relevant flags, cores that this process may use, system, Python."""

    cpu: str
    flags: tuple[str, ...]
    usable_cores: int
    system: str
    python: str

    @property
    def has_vnni(self) -> bool:
        """Return whether this is an x86 CPU whose INT8 instructions cannot overflow."""
        return any(flag in self.flags for flag in EXACT_ON_X86)


def this_machine(cpuinfo: Path = CPUINFO) -> Machine:
    """Return a description of this machine; `cpuinfo` is Linux's list of processors."""
    cpu, flags = _processor(cpuinfo)
    return Machine(
        cpu=cpu or platform.processor() or platform.machine(),
        flags=tuple(flag for flag in RELEVANT_FLAGS if flag in flags),
        usable_cores=usable_cores(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return this project's version, and those of `packages` (names of distributions) that are installed."""
    found = {"twincar-edge": __version__}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    """Return the first processor's name and flags; x86 writes `model name` and `flags`, Arm `Features`."""
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return "", frozenset()
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    return fields.get("model name", ""), frozenset((fields.get("flags") or fields.get("features") or "").split())
