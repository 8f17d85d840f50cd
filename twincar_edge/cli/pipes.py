"""What to do when whoever reads our output has gone."""

from __future__ import annotations

import os
import sys


def discard_output() -> None:
    """Point standard output at nothing, after a BrokenPipeError on it.

    `twincar-edge watch … | head` is no error: what is still buffered goes nowhere, and the exit is quiet.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
