"""Measures the cost of the web page for the camera loop, with and without clients.

    python -m twincar_edge.benchmarks.experiments page_overhead CLIP [--model MODEL] -o results.json

The loop reads the clip as fast as possible, so any work for the page reduces its frame rate. Three subjects run in
interleaved rounds, so that drift of the machine affects all of them:

- `closed`: the loop with a store and visit images, without the page;
- `open`: the same with the page, without clients;
- `watched`: the same with three clients. Each reads the live view, the stream of visits and, every three seconds, the
  health of the cameras, as a browser does on the start page.

The clients run in another process on the same machine, so the cost of reading is part of the measurement.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
import urllib.request
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Literal

import click

from twincar_edge.benchmarks.experiments.options import PATH, model_option, output_option, publish
from twincar_edge.cli.commands import Command
from twincar_edge.errors import GateError
from twincar_edge.machine import Machine, this_machine
from twincar_edge.records import Record
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks.settings import CropsSettings, StoreSettings

SCHEMA_VERSION: Literal[1] = 1
CLIENTS = 3
MIN_SHARE = 0.9  # of the frame rate without a page, while clients are connected
HEALTH_S = 3.0
_CAMERA = "gate"


class PageOverhead(Record):
    """The full measurement: frames per second of each round, and the data sent to clients in all rounds."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    clip: str
    frames: int
    clients: int
    closed: tuple[float, ...]
    open: tuple[float, ...]
    watched: tuple[float, ...]
    sent_mb: float

    def shares(self, subject: Literal["open", "watched"]) -> tuple[float, ...]:
        """Return the ratio of a subject's frame rate to that without a page, for each round."""
        return tuple(one / other for one, other in zip(getattr(self, subject), self.closed, strict=True))

    def summary(self) -> str:
        """Return the results in a few lines."""
        lines = [f"{self.clip}: {self.frames} frames; closed {median(self.closed):.1f} frames/s"]
        for subject in ("open", "watched"):
            shares = self.shares(subject)
            rate = f"{median(getattr(self, subject)):.1f} frames/s"
            lines.append(f"{subject:<7} {rate}: {median(shares):.2f} of it ({min(shares):.2f} to {max(shares):.2f})")
        lines.append(f"{self.clients} clients received {self.sent_mb:.1f} MB")
        return "\n".join(lines)

    def require(self) -> None:
        """Check the frame rate with clients.

        Raises:
            GateError: it is below the limit.
        """
        share = median(self.shares("watched"))
        if share < MIN_SHARE:
            raise GateError(f"with clients, the loop keeps {share:.2f} of its frame rate (limit {MIN_SHARE:.2f})")


def measure_page(clip: Path, model: Path | None = None, rounds: int = 5) -> PageOverhead:
    """Measure a clip.

    Raises:
        InputError: the clip cannot be read.
        ModelError: the model cannot be used.
    """
    rates: dict[str, list[float]] = {"closed": [], "open": [], "watched": []}
    frames, sent = 0, 0
    for _ in range(rounds):
        for subject, found in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                service = Service(_config(clip, model, Path(folder), page=subject != "closed"))
                with service, _Clients(service, CLIENTS if subject == "watched" else 0) as clients:
                    summary = service.run()
                sent += clients.sent
            frames = summary.frames
            found.append(summary.frames / summary.seconds)
    return PageOverhead(
        created=datetime.now(UTC),
        machine=this_machine(),
        clip=clip.name,
        frames=frames,
        clients=CLIENTS,
        closed=tuple(rates["closed"]),
        open=tuple(rates["open"]),
        watched=tuple(rates["watched"]),
        sent_mb=sent / 1e6,
    )


def _config(clip: Path, model: Path | None, folder: Path, *, page: bool) -> WatchConfig:
    return WatchConfig(
        cameras=(CameraConfig(name=_CAMERA, source=str(clip), locate="motion"),),
        model=model,
        state=folder,
        sinks=(StoreSettings(), CropsSettings(path=folder / "pictures")),
        page=PageSettings(address="127.0.0.1:0") if page else None,
    )


class _Clients:
    """Clients of a service's page in another process. Entering waits until they are connected.

    Attributes:
        sent: the bytes sent to the clients; set on exit.
    """

    def __init__(self, service: Service, count: int) -> None:
        self.sent = 0
        self._service = service
        self._count = count
        self._process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> _Clients:
        if self._count:
            assert self._service.page is not None
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_run_clients, args=(self._service.page.url, self._count, theirs))
            self._process.start()
            self._connection.recv()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._connection.send("stop")
            self.sent = self._connection.recv()
            self._process.terminate()
            self._process.join()


def _run_clients(url: str, count: int, pipe: Connection) -> None:
    """Read pages like `count` browsers until a stop message; runs in the clients' process."""
    counts: list[int] = []
    ready = threading.Barrier(2 * count + 1)

    def read(path: str) -> None:
        with urllib.request.urlopen(url + path) as answer:
            ready.wait()
            while chunk := answer.read1(65536):
                counts.append(len(chunk))

    def poll_health() -> None:
        while True:
            time.sleep(HEALTH_S)
            with urllib.request.urlopen(url + "cameras") as answer:
                counts.append(len(answer.read()))

    for _ in range(count):
        for path in (f"live/{_CAMERA}.mjpeg", "visits.stream"):
            threading.Thread(target=read, args=(path,), daemon=True).start()
        threading.Thread(target=poll_health, daemon=True).start()
    ready.wait()
    pipe.send("ready")
    pipe.recv()
    pipe.send(sum(counts))
    pipe.recv()  # blocks until the process is terminated, because the reading threads must not see the server close


@click.command("page_overhead", cls=Command)
@click.argument("clip", type=PATH)
@model_option
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds for each subject.")
@output_option
def command(clip: Path, model: Path | None, rounds: int, output: Path | None) -> None:
    """Run the camera loop on CLIP without the web page, with it, and with three clients.

    Exits with 1 if the loop keeps less than 90% of its frame rate with clients.
    """
    report = measure_page(clip, model, rounds)
    publish(report, report.summary(), output)
    report.require()
