"""The description of a machine is read from it, on x86 and on Arm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twincar_edge import __version__
from twincar_edge.machine import installed_versions, this_machine


@pytest.mark.parametrize(
    ("cpuinfo", "cpu", "flags"),
    [
        ("processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512_vnni\n\nmodel name\t: Other\n", "Xeon", 2),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", None, 2),
    ],
)
def test_the_processor_is_read_on_x86_and_on_arm(tmp_path: Path, cpuinfo: str, cpu: str | None, flags: int) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    machine = this_machine(tmp_path / "cpuinfo")
    assert machine.cpu == cpu or (cpu is None and machine.cpu)
    assert len(machine.flags) == flags
    assert this_machine(tmp_path / "absent").flags == ()


def test_installed_versions_omit_missing_distributions() -> None:
    assert installed_versions(["numpy", "no-such-distribution"]) == {
        "twincar-edge": __version__,
        "numpy": np.__version__,
    }
