"""The state folder: persistent state of `watch`, used by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import make_folder
from twincar_edge.runtime.storage.disks import NO_SPACE

STORE_NAME = "events.sqlite"


def default_state_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the default state folder.

    It is `$TWINCAR_STATE`, else systemd's `$STATE_DIRECTORY` (its first), else `$XDG_STATE_HOME/twincar-edge`, else
    `~/.local/state/twincar-edge`.

    Raises:
        InputError: none of them is set, and there is no home folder.
    """
    environ = os.environ if environ is None else environ
    if named := environ.get("TWINCAR_STATE"):
        return Path(named).expanduser()
    if systemd := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(systemd)
    xdg = Path(environ.get("XDG_STATE_HOME", ""))
    if xdg.is_absolute():  # the XDG specification says to ignore relative paths
        return xdg / "twincar-edge"
    try:
        home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except RuntimeError as error:
        raise InputError("no state folder: this user has no home folder; name one with ", Parameter("state")) from error
    return home / ".local" / "state" / "twincar-edge"


def make_state_folder(folder: Path) -> None:
    """Create a state folder, if missing, for its user and group only.

    Raises:
        InputError: it cannot be created.
    """
    with suppress(OSError):  # `make_folder` says why
        folder.mkdir(0o750, parents=True)
    make_folder(folder)


class StateFolder:
    """The state folder, locked by one process at a time: two that share a spool would deliver its events twice.

    Use it as a context manager. The kernel holds the lock, so a killed process leaves no stale one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Take `folder`, or the default one."""
        self.folder = folder or default_state_folder()
        self._lock: int | None = None

    @property
    def store(self) -> Path:
        """Return the default path of the store of events."""
        return self.folder / STORE_NAME

    @property
    def pictures(self) -> Path:
        """Return the default folder of pictures that the web page shows."""
        return self.folder / "pictures"

    @property
    def spool(self) -> Path:
        """Return the folder of the spools."""
        return self.folder / "spool"

    def __enter__(self) -> Self:
        """Make the folder, for its user and group only, and lock it.

        Raises:
            InputError: it cannot be made, or another process holds it; the line names that process.
        """
        make_state_folder(self.folder)
        path = self.folder / "lock"
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"cannot use the state folder {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            self._release()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise InputError(f"cannot lock the state folder {self.folder}: {error.strerror}") from error
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise InputError(
                f"the state folder {self.folder} is in use by {who}: stop it, or choose another folder with ",
                Parameter("state"),
            ) from error
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            if error.errno not in NO_SPACE:  # the lock holds without the process number in it
                self._release()
                raise InputError(f"cannot use the state folder {self.folder}: {error.strerror}") from error
        return self

    def __exit__(self, *_exception: object) -> None:
        """Release the lock."""
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
