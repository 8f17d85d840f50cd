"""Copies a checkpoint into a half-precision safetensors file: `python -m twincar_edge.training.halve FROM TO`."""

from __future__ import annotations

import sys
from pathlib import Path

from twincar_edge.errors import exit_code
from twincar_edge.training.checkpoint import read_checkpoint, write_safetensors


def main(arguments: list[str]) -> int:
    """Copy the checkpoint at the first path to the second; return the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m twincar_edge.training.halve FROM TO.safetensors\n")
        return 2
    source, target = map(Path, arguments)
    return exit_code(lambda: write_safetensors(target, half=True, **read_checkpoint(source).contents()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
