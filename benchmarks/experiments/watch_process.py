"""A run of `twincar-edge watch` in a process of its own, started as its users start it and looked at from outside."""

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

from twincar_edge.benchmarks.memory import held_memory_mb
from twincar_edge.errors import InputError
from twincar_edge.records import Record

START_S = 90.0  # for the run to open its model and its camera
STOP_S = 60.0  # for it to end in good order
SCRAPE_S = 10.0
PROC = Path("/proc")


class Sample(Record):
    """How a run was at one moment, so many seconds after it was ready.

    `anonymous_mb` is the part of `resident_mb` that is of no file. All from `cpu_s` on is what the run's own
    metrics say, summed over cameras and sinks; `answer_age_s` is how old the frame of the newest answer was when it was
    answered, None where there was none yet.
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
    """A run with all that a box has: events in JSON lines and a database, pictures under a limit, metrics served.

    Entering starts it and waits until it is ready; leaving kills it, where `stop` has not ended it.
    """

    def __init__(self, source: str, model: Path, options: Sequence[str], folder: Path, crops_limit: str) -> None:
        """Take what `twincar-edge watch` takes; all that the run writes lies in `folder`."""
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
        """Start.

        Raises:
            InputError: it does not start, for the reason that it gives.
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
        """Kill it if it runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def wait_until(self, at_s: float) -> None:
        """Wait until it has run for so long.

        Raises:
            InputError: it has ended.
        """
        try:
            self._process.wait(max(0.0, at_s - self._age_s))
        except subprocess.TimeoutExpired:
            return
        raise self._ended()

    def sample(self) -> Sample:
        """Return how it is now.

        Raises:
            InputError: it has ended, or this system does not tell what a process holds.
        """
        at_s = self._age_s
        try:
            values = self._scrape()
        except OSError as error:
            raise self._failed(f"the run does not give its metrics: {error}") from error
        home = PROC / str(self._process.pid)
        held = held_memory_mb(home / "smaps_rollup")
        if held is None:
            raise self._failed("this system does not tell what a process holds: Linux does, in /proc/PID/smaps_rollup")
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
        """End it as a service manager does.

        Raises:
            InputError: it does not end, or not well.
        """
        self._process.terminate()
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"the run does not end within {STOP_S:g} s of SIGTERM") from error
        if code != 0:
            raise self._ended()

    def written_mb(self) -> dict[str, float]:
        """Return what lies on the disk: `events`, `store` and `crops`."""
        patterns = {"events": "events.jsonl", "store": "events.db*", "crops": "crops/*.jpg"}
        return {
            name: sum(file.stat().st_size for file in self._folder.glob(pattern)) / 1e6
            for name, pattern in patterns.items()
        }

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._ready_s

    def _wait_until_ready(self) -> None:
        until_s = time.monotonic() + START_S
        while self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._scrape()
                return
            if time.monotonic() > until_s:
                raise InputError(f"the run serves no metrics within {START_S:g} s of its start")
            time.sleep(0.1)
        raise self._ended()

    def _scrape(self) -> dict[str, float]:
        """Return what it says of itself, each metric summed over its labels; raises OSError where it says nothing."""
        with urllib.request.urlopen(self._metrics, timeout=SCRAPE_S) as answer:
            text = answer.read().decode()
        values: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                values[one.name] = values.get(one.name, 0.0) + one.value
        return values

    def _failed(self, problem: str) -> InputError:
        """Return why it cannot be looked at: that it has ended, or is about to, explains whatever else there is."""
        try:
            self._process.wait(SCRAPE_S)
        except subprocess.TimeoutExpired:
            return InputError(problem)
        return self._ended()

    def _ended(self) -> InputError:
        code = self._process.returncode
        if code == 0:
            return InputError("the source is over before its time: name a camera or stream that goes on for so long")
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines() or ["it says nothing"]
        return InputError(f"watch ended with exit code {code}: {lines[-1].removeprefix('error: ')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
