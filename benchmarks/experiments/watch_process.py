"""Runs `twincar-edge watch` in a process, as users start it, and samples it from outside."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from twincar_edge.errors import InputError
from twincar_edge.memory import held_memory_mb
from twincar_edge.records import Record

START_TIMEOUT_S = 90.0  # to open the model and the camera
STOP_TIMEOUT_S = 60.0
SCRAPE_TIMEOUT_S = 10.0
PROC = Path("/proc")


class Sample(Record):
    """The state of a run, `at_s` seconds after it was ready.

    `anonymous_mb` is the part of `resident_mb` that is not mapped from files. The fields from `cpu_s` on are the run's
    own metrics, summed over cameras and sinks. `answer_age_s` is the age of a frame at its answer, for the newest
    answer; None if there is none yet.
    """

    at_s: float
    resident_mb: float
    anonymous_mb: float
    open_files: int
    threads: int
    cpu_s: float
    frames: int
    frames_dropped: int
    reconnects: int
    visits: int
    events: int
    events_dropped: int
    answer_age_s: float | None


class WatchProcess:
    """A run with typical sinks: events as JSON lines and in a database, images with a size limit, and metrics.

    Entering starts the process and waits until it is ready; leaving kills it if it is still running.
    """

    def __init__(self, source: str, model: Path, options: Sequence[str], folder: Path, crops_limit: str) -> None:
        """Take the arguments of `twincar-edge watch`; the run writes all its files to `folder`."""
        self._command = [sys.executable, "-P", "-m", "twincar_edge", "watch", source, "--model", str(model)]
        self._command += ["--output", str(folder / "events.jsonl"), "--store", str(folder / "events.db")]
        self._command += ["--state", str(folder / "state")]
        self._command += ["--save-crops", str(folder / "crops"), "--crops-limit", crops_limit]
        address = f"127.0.0.1:{_free_port()}"
        self._command += ["--monitor", address, *options]
        self._metrics = f"http://{address}/metrics"
        self._folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        """Start the process.

        Raises:
            InputError: the process did not start; the message contains its error.
        """
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        self._ready_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process if it is running."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def wait_until(self, at_s: float) -> None:
        """Wait until `at_s` seconds after the process was ready.

        Raises:
            InputError: the process has ended.
        """
        try:
            self._process.wait(max(0.0, at_s - self._age_s))
        except subprocess.TimeoutExpired:
            return
        raise self._ended()

    def sample(self) -> Sample:
        """Return the current state.

        Raises:
            InputError: the process has ended, or the operating system does not report the memory of processes.
        """
        at_s = self._age_s
        try:
            values = self._scrape()
        except OSError as error:
            raise self._failed(f"cannot read the metrics of the run: {error}") from error
        home = PROC / str(self._process.pid)
        held = held_memory_mb(home / "smaps_rollup")
        if held is None:
            raise self._failed("cannot read the memory of the run: it needs Linux with /proc/PID/smaps_rollup")
        return Sample(
            at_s=round(at_s, 3),
            resident_mb=round(held[0], 3),
            anonymous_mb=round(held[1], 3),
            open_files=len(list((home / "fd").iterdir())),
            threads=len(list((home / "task").iterdir())),
            cpu_s=values["process_cpu_seconds_total"],
            frames=int(values["twincar_frames_total"]),
            frames_dropped=int(values["twincar_frames_dropped_total"]),
            reconnects=int(values["twincar_reconnects_total"]),
            visits=int(values["twincar_visits_total"]),
            events=int(values["twincar_sink_delivered_total"]),
            events_dropped=int(values["twincar_sink_dropped_total"]),
            answer_age_s=values.get("twincar_answer_age_seconds"),
        )

    def stop(self) -> None:
        """End the process with SIGTERM, as a service manager does.

        Raises:
            InputError: the process does not end, or ends with an error.
        """
        self._process.terminate()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"the run did not end within {STOP_TIMEOUT_S:g} s after SIGTERM") from error
        if code != 0:
            raise self._ended()

    def written_mb(self) -> dict[str, float]:
        """Return the disk usage of `events`, `store` and `crops`, in MB."""
        patterns = {"events": "events.jsonl", "store": "events.db*", "crops": "crops/*.jpg"}
        return {
            name: sum(file.stat().st_size for file in self._folder.glob(pattern)) / 1e6
            for name, pattern in patterns.items()
        }

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._ready_s

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._scrape()
                return
            if time.monotonic() > deadline_s:
                raise InputError(f"the run did not serve metrics within {START_TIMEOUT_S:g} s after its start")
            time.sleep(0.1)
        raise self._ended()

    def _scrape(self) -> dict[str, float]:
        """Return the run's metrics, each summed over its labels. Raises OSError if they cannot be read."""
        with urllib.request.urlopen(self._metrics, timeout=SCRAPE_TIMEOUT_S) as answer:
            text = answer.read().decode()
        values: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                values[one.name] = values.get(one.name, 0.0) + one.value
        return values

    def _failed(self, problem: str) -> InputError:
        """Return the error for a failed sample. If the process has ended or is about to, that is the cause."""
        try:
            self._process.wait(SCRAPE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return InputError(problem)
        return self._ended()

    def _ended(self) -> InputError:
        code = self._process.returncode
        if code == 0:
            return InputError("the source ended early: use a camera or a stream that lasts for the whole duration")
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines() or ["no output"]
        return InputError(f"watch ended with exit code {code}: {lines[-1].removeprefix('error: ')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
