"""A Ray cluster on loopback: each node is a separate `ray start` process with one CPU."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.support.servers import free_port

ATTEMPTS = 3
RAY = Path(sys.executable).with_name("ray")


class RayCluster:
    """A running cluster.

    Attributes:
        address: the value for `score --ray`.
        environment: variables that clients need, with a token: Ray listens on all addresses.
    """

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.2:{free_port()}"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._folder = folder
        self._temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # must be short: paths of sockets begin with it
        self._nodes: list[subprocess.Popen[bytes]] = []

    def add_node(self, program: tuple[str, ...] = (str(RAY),)) -> int:
        """Start a node and return its number. The first node is the head of the cluster.

        A start has a fixed timeout of 30 s in Ray, so it is retried on a busy machine.
        """
        number = len(self._nodes)
        for _ in range(ATTEMPTS):
            node, log = self._start(number, program)
            while node.poll() is None:
                if b"runtime started" in log.read_bytes():
                    self._nodes.append(node)
                    return number
                time.sleep(0.2)
        raise AssertionError(log.read_text())

    def _start(self, number: int, program: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], Path]:
        head = ("--head", "--port", self.address.rpartition(":")[2], "--include-dashboard", "false")
        arguments = head if number == 0 else ("--address", self.address)
        log = self._folder / f"node-{number}.log"
        with log.open("wb") as file:
            node = subprocess.Popen(
                [
                    *(*program, "start", *arguments, "--node-ip-address", f"127.0.0.{number + 2}", "--num-cpus", "1"),
                    *("--object-store-memory", "80000000", "--temp-dir", str(self._temporary)),
                    *("--disable-usage-stats", "--block"),
                ],
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return node, log

    def kill(self, number: int) -> None:
        """Kill all processes of a node with SIGKILL."""
        node = self._nodes[number]
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()

    def close(self) -> None:
        """Kill all nodes and remove their files."""
        for number in reversed(range(len(self._nodes))):
            self.kill(number)
        shutil.rmtree(self._temporary, ignore_errors=True)


@contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    """Yield a cluster without nodes, and close it after the block; skip the test if Ray is not installed."""
    pytest.importorskip("ray")
    cluster = RayCluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()
