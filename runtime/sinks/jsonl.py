"""The JSON lines sink, for a file or a stream."""

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

_BEGINS = b'{"schema_version"'  # the first field of an event


class JsonLines(Sink):
    """Writes each event as one line of JSON to a stream, or appends it to a file, without buffering."""

    def __init__(self, target: Path | TextIO | None = None) -> None:
        """Write to a path, an open text stream or, without `target`, to standard output."""
        self._file = AppendedFile(target, _BEGINS) if isinstance(target, Path) else None
        self._stream = None if isinstance(target, Path) else target
        self._torn = False  # the stream ends in the middle of a line

    def open(self) -> None:
        """Open the file.

        Raises:
            InputError: the file is not writable, or holds something else.
        """
        if self._file is not None:
            self._file.open()

    def close(self) -> None:
        """Close the file; leave a stream open."""
        if self._file is not None:
            self._file.close()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Write a line.

        Raises:
            DeliveryError: the target cannot be written now (disk full).
            BrokenPipeError: the reader closed the stream.
        """
        self._append(event)

    def write_stored(self, event: StoredEvent) -> None:
        """Write a stored event unchanged; raises what `write` raises."""
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
        """Bypass the stream's buffer: a thread that waits for a slow reader must not hold the buffer's lock.

        Python needs that lock at exit and aborts if it cannot get it.
        """
        try:
            descriptor = stream.fileno()
        except io.UnsupportedOperation:  # an in-memory stream
            stream.write(line)
            stream.flush()
            return
        unsent = ("\n" * self._torn + line).encode("utf-8")
        while unsent:
            try:
                unsent = unsent[os.write(descriptor, unsent) :]
                self._torn = bool(unsent)
            except BlockingIOError:  # another process that shares the descriptor made it non-blocking
                select.select([], [descriptor], [])
