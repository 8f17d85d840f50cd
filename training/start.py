"""Starts a run, possibly replacing an earlier one. A start that fails leaves the folder as it was."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@contextmanager
def started(folder: RunFolder, *, overwrite: bool) -> Iterator[None]:
    """Clear the folder for a new run, and undo that if the run fails before its first epoch is complete.

    The files of an earlier run or cross-validation with a checkpoint wait in `RunFolder.replaced`; `discard_replaced`
    removes them. After an interruption they stay there, and the new run can be resumed. `integrity.csv` is not undone:
    it has the reasons.

    Raises:
        InputError: a file cannot be moved or removed.
    """
    if overwrite and any(run.checkpoint.exists() for run in folder.runs()):
        _set_aside(folder)
    folder.clear(overwrite=overwrite)
    try:
        yield
    except TwincarError:
        if not any(run.state.exists() for run in folder.runs()):
            _undo(folder)
        raise


def discard_replaced(folder: RunFolder) -> None:
    """Remove the files of the earlier run, once the new one has a checkpoint."""
    shutil.rmtree(folder.replaced, ignore_errors=True)


def _set_aside(folder: RunFolder) -> None:
    discard_replaced(folder)
    try:
        for file in folder.removable():
            if file.exists():
                _move(file, folder.replaced / file.relative_to(folder.path))
    except OSError as error:
        raise InputError(f"cannot write into {folder.path}: {error.strerror}") from error


def _undo(folder: RunFolder) -> None:
    try:
        *folds, _ = folder.runs()
        for file in folder.removable():
            file.unlink(missing_ok=True)
        for fold in folds:
            with suppress(OSError):  # it does not exist, or has files of others
                fold.path.rmdir()
        for file in [path for path in folder.replaced.rglob("*") if path.is_file()]:
            _move(file, folder.path / file.relative_to(folder.replaced))
        discard_replaced(folder)
    except OSError as error:
        logger.warning("cannot restore the earlier run from %s: %s", folder.replaced, error.strerror)


def _move(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    file.rename(to)
