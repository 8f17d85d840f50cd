"""Events as lines of JSON, in a file or on a stream."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.appending import AppendedFile
from twincar_edge.runtime.sinks.base import Crop, DeliveryError


class JsonLines:
    """Writes each event as one line of JSON, there at once: to a stream, or appended to a file."""

    def __init__(self, target: Path | TextIO | None = None) -> None:
        """Take a path, an open text stream, or nothing for standard output."""
        self._file = AppendedFile(target) if isinstance(target, Path) else None
        self._stream = None if isinstance(target, Path) else target
        self._torn = False  # the stream ends in the middle of a line
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            InputError: it cannot be written.
        """
        if self._file is not None:
            self._stack.enter_context(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file; a stream stays open."""
        self._stack.close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write a line.

        Raises:
            DeliveryError: it cannot be written now (no space).
            BrokenPipeError: whoever read the stream has gone.
        """
        line = event.to_json() + "\n"
        if self._file is not None:
            self._file.append(line.encode("utf-8"))
            return
        stream = self._stream or sys.stdout
        try:
            self._write(stream, line)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DeliveryError(f"cannot write {getattr(stream, 'name', 'the stream')}: {error.strerror}") from error

    def _write(self, stream: TextIO, line: str) -> None:
        """Write past the stream's buffer: a thread that a slow reader holds up must not hold the buffer's lock.

        Python waits for that lock when it ends, and aborts if it does not get it.
        """
        try:
            descriptor = stream.fileno()
        except io.UnsupportedOperation:  # a stream that is only in memory
            stream.write(line)
            stream.flush()
            return
        left = ("\n" * self._torn + line).encode("utf-8")
        while left:
            try:
                left = left[os.write(descriptor, left) :]
                self._torn = bool(left)
            except BlockingIOError:  # whoever shares the descriptor wants it so
                select.select([], [descriptor], [])
