"""Events as lines of JSON, in a file or on a stream."""

from __future__ import annotations

import io
import os
import select
import sys
from pathlib import Path
from typing import TextIO

from twincar_edge.runtime.events import Event, StoredEvent
from twincar_edge.runtime.sinks.appending import AppendedFile
from twincar_edge.runtime.sinks.base import Crop, DeliveryError, Sink


class JsonLines(Sink):
    """Writes each event at once as one line of JSON: to a stream, or appended to a file."""

    def __init__(self, target: Path | TextIO | None = None) -> None:
        """Take a path, an open text stream, or nothing for standard output."""
        self._file = AppendedFile(target) if isinstance(target, Path) else None
        self._stream = None if isinstance(target, Path) else target
        self._torn = False  # the stream ends in the middle of a line

    def open(self) -> None:
        """Open the file.

        Raises:
            InputError: it is not writable.
        """
        if self._file is not None:
            self._file.open()

    def close(self) -> None:
        """Close the file; a stream stays open."""
        if self._file is not None:
            self._file.close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write a line.

        Raises:
            DeliveryError: it cannot be written now (no space).
            BrokenPipeError: the reader of the stream has gone.
        """
        self._append(event)

    def write_stored(self, event: StoredEvent) -> None:
        """Write an event as it was stored; raises what `write` raises."""
        self._append(event)

    def _append(self, event: Event | StoredEvent) -> None:
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
            name = "standard output" if self._stream is None else getattr(stream, "name", "the stream")
            raise DeliveryError(f"cannot write to {name}: {error.strerror}") from error

    def _write(self, stream: TextIO, line: str) -> None:
        """Write around the stream's buffer: a thread that waits for a slow reader must not hold the buffer's lock.

        Python needs that lock when it exits, and aborts if it does not get it.
        """
        try:
            descriptor = stream.fileno()
        except io.UnsupportedOperation:  # a stream in memory
            stream.write(line)
            stream.flush()
            return
        left = ("\n" * self._torn + line).encode("utf-8")
        while left:
            try:
                left = left[os.write(descriptor, left) :]
                self._torn = bool(left)
            except BlockingIOError:  # another process that shares the descriptor made it non-blocking
                select.select([], [descriptor], [])
