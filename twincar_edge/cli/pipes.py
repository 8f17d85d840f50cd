"""Handle failures of standard output: reader gone, disk full, closed, or a character that it cannot encode."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from twincar_edge.errors import InputError


def prepare_streams() -> None:
    """Make the standard streams usable if they are closed or not encoded as UTF-8.

    The next opened file would reuse a closed descriptor and receive the prints. So `/dev/null` replaces it; for
    standard output it is opened read-only, so that writing still fails.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free descriptor, which is this one
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:  # not replaced by a test
        sys.stdout = _StandardOutput(sys.stdout or open(1, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


class _StandardOutput(io.TextIOWrapper):
    """Standard output that raises our own errors, which tells its failures from those of other files.

    A character that its encoding lacks becomes a question mark.
    """

    def __init__(self, before: Any) -> None:
        super().__init__(
            io.BufferedWriter(_Descriptor(before.fileno(), "w", closefd=False)),
            before.encoding,
            "replace",
            line_buffering=before.line_buffering,
            write_through=before.write_through,
        )


class _Descriptor(io.FileIO):
    def write(self, data: Any, /) -> int:
        """Write `data`.

        Raises:
            BrokenPipeError: the reader has gone.
            InputError: the output cannot be written.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            discard_output()
            raise InputError(f"cannot write to standard output: {error.strerror}") from error


@contextmanager
def checked_output() -> Iterator[None]:
    """Flush standard output after the block, and end it quietly if its reader has gone: `… | head` is not an error.

    Around a command's prints, it lets the command finish its other work, such as a check that decides the exit code.
    Later prints are discarded.

    Raises:
        InputError: standard output cannot be written.
    """
    try:
        try:
            yield
        except click.exceptions.Exit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()


def discard_output() -> None:
    """Redirect standard output to `/dev/null`: at exit, Python flushes what is still buffered."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
