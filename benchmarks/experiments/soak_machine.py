"""The disk and the clock of the box in a soak, and their faults."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from twincar_edge.benchmarks.experiments.soak_world import Part

_FILLER = "filler"
_OFFSETS = {"an hour ahead": "+1h", "an hour behind": "-1h", "in 2040": "+5000d"}
_FAKETIME = tuple(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))  # where Debian installs it


class Disk(Part):
    """A small separate disk at `folder`, which can be filled, if this process may mount file systems."""

    name = "disk"
    faults: tuple[str, ...] = ("full",)

    def __init__(self, folder: Path, size: str) -> None:
        """Mount it."""
        super().__init__()
        folder.mkdir()
        self._folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0750", "twincar-soak", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
        if not self.mounted:
            self.faults = ()

    def set(self, fault: str | None) -> None:
        """Fill it to the last byte, or make room."""
        super().set(fault)
        filler = self._folder / _FILLER
        if fault is None:
            filler.unlink(missing_ok=True)
            return
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            for block in (b"\0" * 65536, b"\0" * 4096, b"\0"):
                with contextlib.suppress(OSError):
                    while file.write(block) == len(block):
                        pass

    def close(self) -> None:
        """Unmount it."""
        if self.mounted:
            subprocess.run(["umount", str(self._folder)], check=True)


class Clock(Part):
    """The wall clock of the process, which can jump if libfaketime is installed.

    libfaketime offsets the wall clock and leaves the monotonic clock alone, as setting a box's time does.
    """

    name = "clock"
    faults: tuple[str, ...] = tuple(_OFFSETS)

    def __init__(self, folder: Path) -> None:
        """Write the file from which libfaketime reads the offset."""
        super().__init__()
        self._file = folder / "clock"
        library = next(iter(_FAKETIME), None)
        self.environment: dict[str, str] = {}
        if library is None:
            self.faults = ()
            return
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",  # read the file at each call
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(None)

    def set(self, fault: str | None) -> None:
        """Jump, or return to the right time."""
        super().set(fault)
        temporary = self._file.with_suffix(".new")
        temporary.write_text(f"{_OFFSETS[fault] if fault else '+0'}\n")
        temporary.replace(self._file)
