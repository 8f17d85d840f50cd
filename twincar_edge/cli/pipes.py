"""Handle failures of the standard streams: reader gone, disk full, closed, or a character that they cannot encode.

A failure of standard output is an error, unless its reader has gone: `… | head` is not an error. Standard error carries
only reports about the work, so its failures change nothing.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twincar_edge.errors import InputError


class ReaderGoneError(Exception):
    """The reader of standard output has closed the pipe. Not an `OSError`, because libraries would handle that."""


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
    if sys.stdout is sys.__stdout__:  # not replaced by a test
        sys.stdout = _stream(_Output, sys.stdout or open(1, "w", encoding="utf-8", closefd=False), "replace")  # noqa: SIM115
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(_Errors, sys.stderr or open(2, "w", encoding="utf-8", closefd=False), "backslashreplace")  # noqa: SIM115


def _stream(kind: type[io.FileIO], before: Any, errors: str) -> io.TextIOWrapper:
    """Return a standard stream over a descriptor of ours, whose errors tell it from other files.

    A character that its encoding lacks becomes a question mark, or on standard error an escape.
    """
    return io.TextIOWrapper(
        io.BufferedWriter(kind(before.fileno(), "w", closefd=False)),
        before.encoding,
        errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        """Write `data`; after a failure, discard what follows.

        Raises:
            ReaderGoneError: the reader has gone.
            InputError: the output cannot be written.
        """
        try:
            return super().write(data)
        except OSError as error:
            _discard(self.fileno())
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError from error
            raise InputError(f"cannot write to standard output: {error.strerror}") from error


class _Errors(io.FileIO):
    def write(self, data: Any, /) -> int:
        """Write `data`; after a failure, discard it and what follows."""
        try:
            return super().write(data)
        except OSError:
            _discard(self.fileno())
            return super().write(data)


@contextmanager
def checked_output() -> Iterator[None]:
    """Flush standard output after the block, and end it quietly if its reader has gone: `… | head` is not an error.

    Around a command's prints, it lets the command finish its other work, such as a check that decides the exit code.
    Later prints are discarded.

    Raises:
        InputError: standard output cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except ReaderGoneError:
        pass


def discard_output() -> None:
    """Redirect standard output to `/dev/null`: at exit, Python flushes what is still buffered."""
    _discard(sys.stdout.fileno())


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
