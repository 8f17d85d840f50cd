"""The log of a long run on standard error, one line per message."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator

from twincar_edge.errors import one_line

# sd-daemon(3) prefixes that tell the journal a line's severity. The journal adds the time itself.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))


class _LineFormatter(logging.Formatter):
    """Writes each message on one line, so that no name in it can fake a log line. Tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


class _JournalFormatter(_LineFormatter):
    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _formatter() -> logging.Formatter:
    if "JOURNAL_STREAM" in os.environ:  # set by systemd for its services
        return _JournalFormatter()
    formatter = _LineFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    return formatter


def log_to_stderr() -> contextlib.AbstractContextManager[None]:
    """Log messages of twincar-edge from INFO up, with time and level. Without this, only bare warnings are printed."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter())
    return logging_to(handler, "twincar_edge")


@contextlib.contextmanager
def logging_to(handler: logging.Handler, name: str) -> Iterator[None]:
    """Attach a handler to the logger `name` at level INFO, for the duration of the block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
