"""Notifies systemd of a service's state: ready, reloading, stopping, a status line, and watchdog pings.

The protocol is sd_notify(3): datagrams of `KEY=VALUE` lines to the socket in `$NOTIFY_SOCKET`. Without systemd the
variable is unset, and nothing is sent.
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
    """Sends a service's state and, while the context is active, pings systemd's watchdog as long as `alive` is true.

    The watchdog thread calls `alive` at half the interval that systemd allows. If it returns False, the thread sends no
    ping, and systemd restarts the service after `WatchdogSec=`.
    """

    def __init__(
        self, address: str | None = None, watchdog_s: float | None = None, alive: Callable[[], bool] = _always
    ) -> None:
        """Prepare; entering the context starts the watchdog thread.

        Args:
            address: a path, or `@name` for an abstract socket; None sends nothing.
            watchdog_s: systemd's watchdog timeout; None without a watchdog.
            alive: returns whether the service works.
        """
        self._address = address
        self._watchdog_s = watchdog_s
        self._alive = alive
        self._stop = threading.Event()
        self._thread: SupervisedThread | None = None
        self._reported_failure = False

    @classmethod
    def from_environment(
        cls, alive: Callable[[], bool] = _always, environ: Mapping[str, str] = os.environ, pid: int | None = None
    ) -> Self:
        """Read systemd's environment variables; ignore invalid values.

        Args:
            alive: returns whether the service works.
            environ: the environment.
            pid: this process; the watchdog is enabled only if `$WATCHDOG_PID` is unset or equal.
        """
        address = environ.get("NOTIFY_SOCKET", "")
        watched = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid() if pid is None else pid))
        usec = environ.get("WATCHDOG_USEC", "")
        watchdog_s = int(usec) / 1e6 if watched and usec.isascii() and usec.isdigit() and int(usec) > 0 else None
        return cls(address if address[:1] in ("/", "@") and len(address) > 1 else None, watchdog_s, alive)

    def __enter__(self) -> Self:
        """Start the watchdog thread, if systemd has a watchdog for this service."""
        if self._address is not None and self._watchdog_s is not None:
            self._thread = SupervisedThread(
                partial(self._ping_watchdog, self._watchdog_s / 2), "watchdog", pause=self._stop.wait
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Notify systemd that the service is stopping, and end the thread."""
        self.stopping()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def ready(self, status: str = "") -> None:
        """Notify systemd that the service is ready, with a status line for `systemctl status`."""
        self._send("READY=1", *([_status(status)] if status else []))

    def stopping(self) -> None:
        """Notify systemd that the service is stopping deliberately."""
        self._send("STOPPING=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Notify systemd that the service reloads during the block and is ready after it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self.ready()

    def faults(self) -> list[str]:
        """Return a line if the watchdog thread failed recently."""
        return [] if self._thread is None or self._thread.problem is None else [self._thread.problem]

    def _ping_watchdog(self, every_s: float) -> None:
        was_alive = True
        while True:
            alive = self._alive()
            if alive:
                self._send("WATCHDOG=1")
            elif was_alive:
                logger.error("main loop stalled; withholding watchdog pings until it recovers")
            was_alive = alive
            if self._stop.wait(every_s):
                return

    def _send(self, *lines: str) -> None:
        """Send a datagram. A failure does not stop the service; the first one is logged."""
        if self._address is None:
            return
        where = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), where)
        except OSError as error:
            if not self._reported_failure:
                logger.warning("cannot notify systemd: %s", error)
            self._reported_failure = True


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.splitlines())
