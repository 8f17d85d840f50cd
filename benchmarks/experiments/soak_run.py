"""The process under test in a soak, the faults around it, and the content of its store and spools at each kill."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from twincar_edge.benchmarks.experiments.soak_machine import Clock, Disk
from twincar_edge.benchmarks.experiments.soak_world import Broker, Camera, Part, Receiver
from twincar_edge.errors import GateError
from twincar_edge.memory import held_memory_mb
from twincar_edge.records import Record
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.monitoring.health import Health

SAFE_S = 3.0
SECRETS = {
    "camera": "c4m3ra-s3cret",
    "webhook": "h00k-t0ken",
    "signature": "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ=",
    "mqtt": "br0ker-pass",
}
_DISK = "24m"


class Life(Record):
    """One life of the process: its state after two thirds of the time."""

    seconds: float
    resident_mb: float
    threads: int
    faults: dict[str, int]


class SoakRun:
    """The process and all that is known about it."""

    def __init__(self, folder: Path, model: Path, seed: int, stack: ExitStack) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.ends: dict[str, list[str]] = {"webhook": [], "mqtt": []}
        self.refused: set[str] = set()
        self.stored_s: dict[str, float] = {}  # since when a visit's end is in the store, while the disk had room
        self.safe: set[str] = set()
        self.unsure: set[str] = set()  # in the store too shortly before a kill
        self.spooled: dict[str, set[str]] = {"webhook": set(), "mqtt": set()}
        self.disk = Disk(folder / "disk", _DISK)
        stack.callback(self.disk.close)
        self.camera = Camera()
        self.receiver = Receiver(
            lambda event: self._arrived("webhook", event), lambda event: self.refused.add(event.id)
        )
        self.broker = Broker(folder, lambda event: self._arrived("mqtt", event))
        self.clock = Clock(folder)
        self.parts: tuple[Part, ...] = (self.camera, self.receiver, self.broker, self.disk, self.clock)
        for part in self.parts[:3]:
            stack.callback(part.close)
        self.faults: Counter[str] = Counter()
        self.lives: list[Life] = []
        self._due_s: dict[str, float] = {}  # when a part's state changes next
        self._full_s = -1e9  # when the disk was full last
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "secret").write_text(SECRETS["signature"])
        (folder / "secret").chmod(0o600)
        (folder / "mqtt").write_text(SECRETS["mqtt"])
        (folder / "mqtt").chmod(0o600)
        self._config = folder / "cameras.toml"
        self._config.write_text(
            f'monitor = "127.0.0.1:0"\nkeep_trying = true\nmodel = "{model}"\nthreads = 1\n'
            f'state = "{folder}/disk/state"\n'
            f'[[cameras]]\nname = "gate"\n'
            f'source = "http://watch:{SECRETS["camera"]}@127.0.0.1:{self.camera.port}/live.mjpg"\n'
            f'[[sinks]]\nkind = "store"\nage = "30d"\n[[sinks]]\nkind = "jsonl"\npath = "{folder}/events.jsonl"\n'
            f'[[sinks]]\nkind = "webhook"\nurl = "http://127.0.0.1:{self.receiver.port}/in?token={SECRETS["webhook"]}"\n'
            f'secret_file = "{folder}/secret"\ntimeout_s = 3\n'
            f'[[sinks]]\nkind = "mqtt"\nhost = "127.0.0.1"\nport = {self.broker.port}\nuser = "box"\n'
            f'password_file = "{folder}/mqtt"\ntimeout_s = 3\ndiscovery = ""\n'
        )

    @property
    def store(self) -> Path:
        """Return where the store is."""
        return self.folder / "disk" / "state" / "events.sqlite"

    def _arrived(self, sink: str, event: Event) -> None:
        if event.type == "end":
            self.ends[sink].append(event.id)

    def start(self) -> None:
        """Start the process."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "twincar_edge", "watch", "--config", str(self._config)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                env=os.environ | self.clock.environment,
            )  # fmt: skip

    def live(self, seconds: float, *, faults: bool) -> None:
        """Let the process run for some time, and record its state."""
        assert self._process is not None
        began_s = time.monotonic()
        self.faults.clear()
        held: list[float] = []
        threads = 0
        while (age_s := time.monotonic() - began_s) < seconds:
            if faults:
                self._change()
            self._look_at_store()
            if self._process.poll() is not None:
                raise GateError(f"watch ended by itself with code {self._process.returncode}: {self._last_line()}")
            if 0.6 * seconds < age_s < 0.75 * seconds:
                home = Path("/proc") / str(self._process.pid)
                memory = held_memory_mb(home / "smaps_rollup")
                if memory is not None:
                    held.append(memory[0])
                threads = len(list((home / "task").iterdir()))
            time.sleep(0.25)
        self.lives.append(
            Life(
                seconds=round(seconds, 1),
                resident_mb=round(median(held), 1) if held else 0.0,
                threads=threads,
                faults=dict(self.faults),
            )
        )

    def kill(self) -> None:
        """Kill the process, and record which visits were safe by then."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._look_at_store()
        self.unsure |= (self.stored_s.keys() | self._spooled("store")) - self.safe
        for sink, ids in self.spooled.items():
            ids |= self._spooled(sink)
        self._process.kill()
        self._process.wait()

    def _spooled(self, sink: str) -> set[str]:
        paths = (self.store.parent / "spool").glob(f"{sink}*.sqlite")
        return {event.id for path in paths for event in stored_events(path, "waiting") if event.type == "end"}

    def stop(self) -> None:
        """End it as a service manager does."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        self._look_at_store()

    def heal(self) -> None:
        """Switch all faults off."""
        for part in self.parts:
            part.set(None)

    def health(self) -> Health | None:
        """Return the response of `/healthz`, or None if there is none."""
        found = re.findall(r"health at (\S+)", (self.folder / "log").read_text(errors="replace"))
        if not found:
            return None
        with suppress(OSError), urlopen(found[-1], timeout=5) as answer:
            return Health.model_validate_json(answer.read())
        return None

    def end(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def waiting(self) -> dict[str, int]:
        """Return the number of events in each spool."""
        paths = (self.store.parent / "spool").glob("*.sqlite")
        return {path.name: count for path in paths if (count := len(stored_events(path, "waiting")))}

    def _change(self) -> None:
        now_s = time.monotonic()
        for part in self.parts:
            if not part.faults or now_s < self._due_s.get(part.name, 0.0):
                continue
            if part.fault is None and part.name in self._due_s:
                fault = self.random.choice(part.faults)
                part.set(fault)
                self.faults[f"{part.name} {fault}"] += 1
                self._due_s[part.name] = now_s + self.random.uniform(3, 20)
            else:
                part.set(None)
                self._due_s[part.name] = now_s + self.random.uniform(5, 30)
        if self.disk.fault is not None:
            self._full_s = now_s

    def _look_at_store(self) -> None:
        now_s = time.monotonic()
        for event in stored_events(self.store, "visits"):
            if event.type == "end" and event.id not in self.safe | self.unsure:
                since_s = max(self.stored_s.setdefault(event.id, now_s), self._full_s)
                if now_s - since_s >= SAFE_S:
                    self.safe.add(event.id)

    def _last_line(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def stored_events(path: Path, table: str) -> list[Event]:
    """Return the events of a table of a database that may be in use, or none while it cannot be read."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)) as connection:
        return [Event.model_validate_json(row[0]) for row in connection.execute(f"SELECT event FROM {table}")]
    return []
