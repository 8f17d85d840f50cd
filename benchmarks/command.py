"""What the command lines of this room's modules share: a measurement that is written, shown, and may fail."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from twincar_edge.errors import TwincarError
from twincar_edge.files import write_text

R = TypeVar("R", bound=BaseModel)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Let the user name the file that the report is written to."""
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this JSON file")


def run_command(
    measure: Callable[[], R],
    output: Path | None,
    show: Callable[[R], str],
    check: Callable[[R], None] = lambda _report: None,
) -> int:
    """Measure, write the report and print what it shows; return the exit code, an error being one line.

    Args:
        measure: the measurement.
        output: the JSON file to write, or None.
        show: the report as text.
        check: raises where the report does not keep a limit; by then it is written and shown.
    """
    try:
        report = measure()
        if output is not None:
            write_text(output, report.model_dump_json(indent=1) + "\n")
        print(show(report).rstrip("\n"))  # noqa: T201
        check(report)
    except TwincarError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0
