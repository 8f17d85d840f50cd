"""Run the command line of an experiment in this process."""

from __future__ import annotations

import pytest

from twincar_edge.benchmarks.experiments import main


def run_experiment(*arguments: object) -> int:
    """Run `python -m twincar_edge.benchmarks.experiments ARGUMENTS`; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code
