"""Tests whether a box loses anything under random faults of everything around it, and a SIGKILL every two minutes.

    python -m twincar_edge.benchmarks.experiments soak [--duration 30m] [--seed 0] [-o results.json]

`twincar-edge watch` runs with a camera, a receiver, a broker, a disk and a clock, and each of these fails at random.
The process is killed and restarted repeatedly. In its last life everything works.

An event is safe, and has to arrive at every sink, once it has been in the store for `SAFE_S` while the disk has room:
until then a sink may have it only in memory. All events in a spool when the process is killed have to arrive at its
sink. A kill between a delivery and its acknowledgment delivers an event twice. Receivers recognize such events by their
id, so these are counted, but are not failures. The store deletes visits older than 30 days, so a clock that jumps by
years must not empty it.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median

import click
from pydantic import Field

from twincar_edge.benchmarks.experiments.options import duration_s, model_option, output_option, publish
from twincar_edge.benchmarks.experiments.soak_run import SECRETS, Life, SoakRun, stored_events
from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.errors import GateError
from twincar_edge.machine import Machine, this_machine
from twincar_edge.records import Record
from twincar_edge.runtime.events import Event

_THREAD = re.compile(r"the thread '.*' failed")


class Soak(Record):
    """What was found.

    `safe` visits had to arrive; `missing` did not, by sink. `repeated` ends arrived more than once, `misordered` before
    an earlier one. `restarted` are lines of the log about threads that failed. `leaked` are secrets that a file has.
    `problems` are the faults that remained at the end, when everything worked again.
    """

    schema_version: int = 1
    machine: Machine
    seed: int
    seconds: float
    disk_filled: bool
    clock_jumped: bool
    lives: tuple[Life, ...]
    visits: int
    safe: int
    arrived: dict[str, int]
    missing: dict[str, tuple[str, ...]]
    repeated: dict[str, int]
    misordered: dict[str, int]
    interrupted: int
    leaked: tuple[str, ...]
    restarted: tuple[str, ...]
    problems: tuple[str, ...]
    log_lines: int
    growth_percent: float = Field(description="resident memory, last three lives under faults by the first three")

    def summary(self) -> str:
        """Return what was found, in a few lines."""
        faults: Counter[str] = sum((Counter(life.faults) for life in self.lives), Counter())
        return "\n".join(
            [
                f"{self.seconds / 60:.1f} minutes, {len(self.lives)} lives, seed {self.seed}",
                "faults       " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())),
                f"visits       {self.visits} in the store, {self.safe} safe, {self.interrupted} interrupted",
                f"arrived      {self.arrived}; twice {self.repeated}; out of order {self.misordered}",
                f"missing      { {name: len(ids) for name, ids in self.missing.items()} }",
                f"resident     {', '.join(f'{life.resident_mb:.0f}' for life in self.lives)} MB: "
                f"{self.growth_percent:+.1f}%",
                f"threads      {', '.join(str(life.threads) for life in self.lives)}; restarted: {len(self.restarted)}",
                f"log          {self.log_lines} lines, secrets: {', '.join(self.leaked) or 'none'}",
                f"in the end   {'; '.join(self.problems) or 'all well'}",
            ]
        )

    def check(self, most_percent: float) -> None:
        """See that nothing was lost, no thread failed and nothing grew.

        Raises:
            GateError: something was wrong.
        """
        wrong = [f"{len(ids)} safe visits did not reach {sink}" for sink, ids in self.missing.items() if ids]
        wrong += [f"{count} visits reached {sink} out of order" for sink, count in self.misordered.items() if count]
        wrong += [f"the secret of the {name}" for name in self.leaked]
        wrong += [*self.restarted, *self.problems]
        if self.growth_percent > most_percent:
            wrong.append(f"resident memory grew by {self.growth_percent:.1f}%")
        if wrong:
            raise GateError("; ".join(wrong))


def measure_soak(
    model: Path | None = None, *, duration_s: float = 1800.0, life_s: float = 120.0, seed: int = 0
) -> Soak:
    """Run `watch` while everything around it fails.

    Args:
        model: an exported model; None for the bundled one.
        duration_s: how long, with the last life.
        life_s: between two kills, on average.
        seed: of the faults and kills.

    Raises:
        GateError: the process ended by itself.
        InputError: Mosquitto is not installed.
    """
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name, ExitStack() as stack:
        run = SoakRun(Path(name), model or default_model(), seed, stack)
        stack.callback(run.end)
        while time.monotonic() - began_s < duration_s - life_s:
            run.start()
            run.live(life_s * run.random.uniform(0.9, 1.1), faults=True)
            run.kill()
        run.heal()
        run.start()
        run.live(life_s, faults=False)
        problems = _problems(run)
        run.stop()
        return _report(run, seed, time.monotonic() - began_s, problems)


def _problems(run: SoakRun) -> list[str]:
    health = run.health()
    problems = ["/healthz does not answer"] if health is None else [*health.problems, *health.degraded]
    return problems + [f"{count} events wait in {name}" for name, count in run.waiting().items()]


def _report(run: SoakRun, seed: int, seconds: float, problems: list[str]) -> Soak:
    written = (run.folder / "events.jsonl").read_text().splitlines()
    ends = {**run.ends, "jsonl": [Event.model_validate_json(line).id for line in written]}
    stored = [event for event in stored_events(run.store, "visits") if event.type == "end"]
    ends["store"] = [event.id for event in stored]
    due = {sink: run.safe | run.spooled.get(sink, set()) for sink in ends}
    place = {id: number for number, id in enumerate(dict.fromkeys(ends["jsonl"]))}
    misordered = {}
    for sink in ("webhook", "mqtt"):
        places = [place[id] for id in dict.fromkeys(ends[sink]) if id in place and id not in run.refused]
        misordered[sink] = sum(later < earlier for earlier, later in pairwise(places))
    log = (run.folder / "log").read_text(errors="replace")
    alike = run.lives[:-1] or run.lives
    first, last = alike[:3], alike[-3:]
    return Soak(
        machine=this_machine(),
        seed=seed,
        seconds=round(seconds, 1),
        disk_filled=run.disk.mounted,
        clock_jumped=bool(run.clock.faults),
        lives=tuple(run.lives),
        visits=len(stored),
        safe=len(run.safe),
        arrived={sink: len(set(ids)) for sink, ids in ends.items()},
        missing={sink: tuple(sorted(due[sink] - set(ids))) for sink, ids in ends.items()},
        repeated={sink: len(ids) - len(set(ids)) for sink, ids in ends.items()},
        misordered=misordered,
        interrupted=sum(event.interrupted for event in stored),
        leaked=tuple(name for name, secret in SECRETS.items() if secret in log),
        restarted=tuple(line for line in log.splitlines() if _THREAD.search(line)),
        problems=tuple(problems),
        log_lines=log.count("\n"),
        growth_percent=100 * (median(one.resident_mb for one in last) / median(one.resident_mb for one in first) - 1),
    )


@click.command("soak", cls=Command)
@model_option
@click.option("--duration", callback=duration_s, default="30m", show_default=True, help="Time of the whole run.")
@click.option("--life", callback=duration_s, default="2m", show_default=True, help="Time between two kills.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of faults and kills.")
@click.option("--max-growth", default=5.0, show_default=True, help="Most growth of resident memory, in percent.")
@output_option
def command(
    model: Path | None, duration: float, life: float, seed: int, max_growth: float, output: Path | None
) -> None:
    """Watch while camera, receiver, broker and disk fail at random, and the process is killed."""
    report = measure_soak(model, duration_s=duration, life_s=life, seed=seed)
    publish(report, report.summary(), output)
    report.check(max_growth)
