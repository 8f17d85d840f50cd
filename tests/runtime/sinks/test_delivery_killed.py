"""A process killed while it delivers loses no persisted event; a repeated event directly follows its first copy."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np

from tests import REPOSITORY

# Puts events as fast as they are safe (delivered or on disk), and prints each safe one. The receiver is a file; it is
# unreachable while the file `away` exists.
_SENDER = """
import os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.support.event_toys import visit
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.sinks import Delivery, DeliveryError, Sink, Spool, DeliveryPolicy

FOLDER = Path({folder!r})

class Receiver(Sink):
    def open(self):
        self.file = os.open(FOLDER / "received", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, event, crop_bgr):
        if (FOLDER / "away").exists():
            raise DeliveryError("it is away")
        os.write(self.file, event.id.encode() + b"\\n")

def deliver(start):
    options = dict(spool=Spool(FOLDER / "spool"), backoff=Backoff(0.001, 0.005), persist_after_s=0.0)
    policy = DeliveryPolicy(drain_s=60.0)
    with Delivery(Receiver(), "receiver", policy, on_problem=lambda line: None, **options) as delivery:
        number = start * 100_000
        while start >= 0:
            delivery.put(visit(id=str(number)))
            while delivery.status().queued:
                time.sleep(0.0005)
            os.write(1, b"%d\\n" % number)
            number += 1

print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.write(1, b"child %d\\n" % os.getpid())
        deliver(int(line))
        os._exit(0)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""
KILLS = 40


def test_kills_at_random_moments_lose_no_persisted_event_and_preserve_the_order(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    program = _SENDER.format(root=str(REPOSITORY), folder=str(tmp_path))
    forker = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert forker.stdin is not None
    assert forker.stdout is not None
    safe: list[int] = []
    try:
        assert forker.stdout.readline() == "ready\n"
        for start in range(KILLS + 1):
            last = start == KILLS
            if start % 3 and not last:
                (tmp_path / "away").touch()
            else:
                (tmp_path / "away").unlink(missing_ok=True)
            forker.stdin.write(f"{-1 if last else start}\n")
            child = int(forker.stdout.readline().split()[1])
            if not last:  # the last run drains the spool and ends by itself
                delay = subprocess.Popen(["sleep", f"{rng.uniform(0.0, 0.15):.4f}"])
                if start % 5:
                    safe.append(int(forker.stdout.readline()))
                delay.wait()
                os.kill(child, 9)
            while (line := forker.stdout.readline()) != "dead\n":
                safe.append(int(line))
    finally:
        forker.stdin.close()
        forker.wait(60)
        forker.stdout.close()
    received = [int(line) for line in (tmp_path / "received").read_text().split()]
    once = [number for number, _ in groupby(received)]
    assert once == sorted(set(received))  # in order, duplicates adjacent
    assert set(safe) <= set(once)
    assert len(safe) > 2 * KILLS
    assert len(once) <= len(safe) + KILLS  # per run, one may have been in flight
    assert len(received) <= len(once) + KILLS  # and one may be repeated, because its delivery was not recorded yet
    assert not list(tmp_path.glob("*.corrupt-*"))
