"""Starts a run, perhaps instead of an earlier one. A start that fails leaves the folder as it was."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@contextmanager
def started(folder: RunFolder, *, overwrite: bool) -> Iterator[None]:
    """Clear the folder for a new run, and undo that if the run fails before its first epoch is complete.

    The files of an earlier run with a checkpoint wait in `RunFolder.replaced`; `discard_replaced` removes them. After
    an interruption they stay there, and the new run can be resumed. `integrity.csv` is not undone: it has the reasons.

    Raises:
        InputError: a file cannot be moved or removed.
    """
    if overwrite and folder.checkpoint.exists():
        _set_aside(folder)
    folder.clear(overwrite=overwrite)
    try:
        yield
    except TwincarError:
        if not folder.state.exists():
            _undo(folder)
        raise


def discard_replaced(folder: RunFolder) -> None:
    """Remove the files of the earlier run, once the new one has a checkpoint."""
    shutil.rmtree(folder.replaced, ignore_errors=True)


def _set_aside(folder: RunFolder) -> None:
    discard_replaced(folder)
    try:
        folder.replaced.mkdir(exist_ok=True)
        for file in folder.removable():
            if file.exists():
                file.rename(folder.replaced / file.name)
    except OSError as error:
        raise InputError(f"cannot write into {folder.path}: {error.strerror}") from error


def _undo(folder: RunFolder) -> None:
    try:
        for file in folder.removable():
            file.unlink(missing_ok=True)
        if folder.replaced.is_dir():
            for file in folder.replaced.iterdir():
                file.rename(folder.path / file.name)
            folder.replaced.rmdir()
    except OSError as error:
        logger.warning("cannot restore the earlier run from %s: %s", folder.replaced, error.strerror)
