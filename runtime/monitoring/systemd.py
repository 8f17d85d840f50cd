"""Tells systemd how a service is: ready, stopping, reloading, a line of status, and that it still lives.

The protocol is sd_notify(3): a datagram of `KEY=VALUE` lines to the socket that `$NOTIFY_SOCKET` names. Without systemd
there is no such socket, and nothing here does anything.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from twincar_edge.runtime.supervised import SupervisedThread

logger = logging.getLogger(__name__)


def _always() -> bool:
    return True


class Notifier:
    """Sends a service's state, and while the block runs keeps systemd's watchdog quiet for as long as all is well.

    The watchdog's thread asks `alive` at half of the time that systemd allows, and says nothing where the answer is
    False: systemd then ends the service and starts it anew, which is what `WatchdogSec=` is for.
    """

    def __init__(
        self, address: str | None = None, watchdog_s: float | None = None, alive: Callable[[], bool] = _always
    ) -> None:
        """Take where to send to and how often to ask.

        Args:
            address: a path, or `@name` for an abstract socket; None sends nothing.
            watchdog_s: how long systemd waits for a sign of life; None where it does not watch.
            alive: says whether the service does its work.
        """
        self._address = address
        self._watchdog_s = watchdog_s
        self._alive = alive
        self._stop = threading.Event()
        self._thread: SupervisedThread | None = None
        self._complained = False

    @classmethod
    def from_environment(
        cls, alive: Callable[[], bool] = _always, environ: Mapping[str, str] = os.environ, pid: int | None = None
    ) -> Self:
        """Read what systemd has put into the environment; what makes no sense there counts as absent.

        Args:
            alive: says whether the service does its work.
            environ: the environment.
            pid: of this process; `$WATCHDOG_PID` says whom systemd watches.
        """
        address = environ.get("NOTIFY_SOCKET", "")
        watched = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid() if pid is None else pid))
        usec = environ.get("WATCHDOG_USEC", "")
        watchdog_s = int(usec) / 1e6 if watched and usec.isascii() and usec.isdigit() and int(usec) > 0 else None
        return cls(address if address[:1] in ("/", "@") and len(address) > 1 else None, watchdog_s, alive)

    def __enter__(self) -> Self:
        """Start the watchdog's thread, where systemd watches."""
        if self._address is not None and self._watchdog_s is not None:
            self._thread = SupervisedThread(
                partial(self._keep_quiet, self._watchdog_s / 2), "watchdog", pause=self._stop.wait
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say that the service stops, and end the thread."""
        self.stopping()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def ready(self, status: str = "") -> None:
        """Say that the service does its work, and what it does, in a line for `systemctl status`."""
        self._send("READY=1", *([_status(status)] if status else []))

    def status(self, text: str) -> None:
        """Say in a line what the service does."""
        self._send(_status(text))

    def stopping(self) -> None:
        """Say that the service is about to end, on purpose."""
        self._send("STOPPING=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the service takes new settings while the block runs, and is ready again behind it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self.ready()

    def faults(self) -> list[str]:
        """Return that the watchdog's thread has failed a short while ago, in words."""
        return [] if self._thread is None or self._thread.problem is None else [self._thread.problem]

    def _keep_quiet(self, every_s: float) -> None:
        was_alive = True
        while True:
            alive = self._alive()
            if alive:
                self._send("WATCHDOG=1")
            elif was_alive:
                logger.error("the loop does not do its work any more: the watchdog hears nothing until it does")
            was_alive = alive
            if self._stop.wait(every_s):
                return

    def _send(self, *lines: str) -> None:
        """Send a datagram. A notification that systemd does not take must not end a service: it is logged, once."""
        if self._address is None:
            return
        where = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), where)
        except OSError as error:
            if not self._complained:
                logger.warning("systemd cannot be told how the service is: %s", error)
            self._complained = True


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.splitlines())
