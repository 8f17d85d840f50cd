"""A real Mosquitto on a free loopback port, which tests can stop and start."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.servers import free_port, skip_or_fail


class Mosquitto:
    """A broker whose sessions and messages survive `stop` and `start`. A context manager."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Keep all files in `folder`; `options` are lines of Mosquitto's configuration."""
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            skip_or_fail("Mosquitto is not installed (Debian: mosquitto)")
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self._program = program
        self._config = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {folder}/", "user root"]
        lines += ["max_queued_messages 0", *(options or ["allow_anonymous true"])]
        self._config.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()

    def start(self) -> None:
        """Start the broker and wait until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, "Mosquitto does not listen"
                time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, by default SIGTERM, and wait for the broker to exit."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(20)
        self._process = None

    def send(self, how: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP, without waiting."""
        assert self._process is not None
        self._process.send_signal(how)
