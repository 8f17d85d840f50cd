"""Standard output that fails: its reader has gone, its disk is full, it is closed, or it lacks a character."""

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
    """Make the standard streams usable: closed ones, and those whose encoding is not UTF-8.

    A closed descriptor would be given to the next file that is opened, and prints would then go into that file. So
    `/dev/null` takes its place, open for reading only where it is standard output's: writing still fails.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:  # and not what a test has put in its place
        sys.stdout = _StandardOutput(sys.stdout or open(1, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


class _StandardOutput(io.TextIOWrapper):
    """Standard output, whose failures are errors of ours: nothing else tells them from those of other files.

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
        """Write.

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
    """Flush standard output after the block, and end quietly if its reader has gone: `… | head` is no error.

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
    """Point standard output at nothing: Python writes what is still buffered when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
