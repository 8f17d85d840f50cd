"""The command line over and over, on broken input: what the fuzz tests share.

A start takes a second for imports, and there are thousands of cases. So one process imports all that the commands need,
and forks: each child calls the real entry point for a few cases, one after the other, each in a folder of its own. A
child that dies, or that the kernel's alarm kills because a case takes too long, takes the cases behind it along: these
are run again, each in a process of its own, so that every end is the case's own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from tests import REPOSITORY
from twincar_edge.errors import one_line
from twincar_edge.memory import limit_memory

ENTRY = "twincar_edge.cli:main"
CPU = ("--ep", "cpu", "--threads", "1")
LIMIT_S = 60  # of a case: a hang, also on a busy machine, where a network time-out takes ten seconds
MEMORY_BYTES = 6 * 2**30
LONGEST_LINE = 1500
OUT, ERR, STATUS = "stdout", "stderr", "status"  # of a case, in its folder
MOST_LINES = 4  # of what is said of a failure: an image that is left out, a camera that ended, and why it is over
# What the commands import when they run.
PRELOADED = (
    "av", "cv2", "onnxruntime", "rich.table", "watchfiles", "twincar_edge.cli.classify", "twincar_edge.cli.doctor",
    "twincar_edge.cli.events", "twincar_edge.cli.inspect", "twincar_edge.cli.watch", "twincar_edge.runtime.classify",
    "twincar_edge.runtime.configuration.config_file",
    "twincar_edge.runtime.monitoring.server", "twincar_edge.runtime.selftest.doctor", "twincar_edge.runtime.service",
    "twincar_edge.runtime.sinks.mqtt", "twincar_edge.runtime.truth",
)  # fmt: skip
# A process that has threads must not fork: these keep libraries from starting some when they are imported.
_NO_THREADS = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1",
}  # fmt: skip
# libjpeg and libpng say something of a damaged picture before OpenCV gives it up, and cannot be told not to.
_NATIVE = re.compile(r"libpng (error|warning): |Corrupt JPEG data: |Premature end of JPEG file|Invalid SOS parameters")
# What OpenCV, FFmpeg, ONNX Runtime and C++ would say can be kept from the user, and has to be.
_FOREIGN = re.compile(r"\[ ?[A-Z]+[:@]|\[\w+(,\w+)* @ 0x|\*\*\*|OpenCV|terminate called|\d{4}-\d\d-\d\d ")
_REMAINS = re.compile(r"\.[0-9a-f]{16}(\..*)?")  # what `files.replacing` writes beside its place


@dataclass(frozen=True)
class Case:
    """One command line. What it reads lies in `folder`, where it runs, and what it writes has to lie there too.

    `name` says how it was made. Nothing that is printed or written may hold one of `secrets`.
    """

    arguments: tuple[str, ...]
    folder: Path
    name: str
    secrets: tuple[str, ...] = ()
    entry: str = ENTRY


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `status` is an exit code, or a signal's number below zero."""

    case: Case
    status: int
    out: str
    err: str


class CommandLine:
    """Runs cases, some of them side by side. Use it as a context manager."""

    def __enter__(self) -> Self:
        """Start the process that forks."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fuzzing"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_NO_THREADS, "PYTHONIOENCODING": "utf-8:strict"},  # strict, as in a UTF-8 locale
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.communicate()

    def run(
        self,
        cases: Iterable[Case],
        *,
        lanes: int = 6,
        together: int = 8,
        limit_s: int = LIMIT_S,
        headroom_bytes: int | None = None,
    ) -> list[Outcome]:
        """Run each case to its end: `together` of them in a process, and `lanes` processes side by side.

        With `headroom_bytes`, allocations beyond that fail in each process, what the imports took not counted.
        """
        cases = list(cases)
        limits = {"lanes": lanes, "limit_s": limit_s, "headroom_bytes": headroom_bytes}
        self._fork([cases[first : first + together] for first in range(0, len(cases), together)], limits)
        alone = [case for case in cases if not (case.folder / STATUS).exists()]
        died = dict(zip(alone, self._fork([[case] for case in alone], limits), strict=True))
        return [
            Outcome(
                case,
                int(_taken(case.folder / STATUS)) if (case.folder / STATUS).exists() else died[case],
                _taken(case.folder / OUT),
                _taken(case.folder / ERR),
            )
            for case in cases
        ]

    def _fork(self, groups: list[list[Case]], limits: dict[str, int | None]) -> list[int]:
        """Run each group of cases in a process, and return how the processes ended: a signal below zero, or 0."""
        assert self._process.stdin is not None and self._process.stdout is not None
        jobs = [
            [
                {"entry": case.entry, "arguments": list(map(_as_bytes, case.arguments)), "folder": str(case.folder)}
                for case in group
            ]
            for group in groups
        ]
        self._process.stdin.write(json.dumps({**limits, "jobs": jobs}).encode() + b"\n")
        self._process.stdin.flush()
        ends = dict(json.loads(self._process.stdout.readline()) for _ in groups)
        return [ends[number] for number in range(len(groups))]


def _as_bytes(argument: str) -> str:
    """Return an argument as JSON can hold it, whatever bytes it stands for."""
    return os.fsencode(argument).decode("latin-1")


def _taken(path: Path) -> str:
    text = path.read_text("utf-8", "backslashreplace")
    path.unlink()
    return text


# --- the process that forks ---


def serve() -> None:
    """Run the groups of jobs that come as lines of JSON on standard input, and tell of each end on standard output."""
    for module in PRELOADED:
        importlib.import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread: forking is not safe"  # noqa: PTH208
    for line in sys.stdin:
        request = json.loads(line)
        running: dict[int, int] = {}
        for number, group in enumerate(request["jobs"]):
            if len(running) == request["lanes"]:
                _tell_an_end(running)
            if (pid := os.fork()) == 0:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
                if request["headroom_bytes"] is not None:
                    limit_memory(_data_bytes() + request["headroom_bytes"])
                for job in group:
                    Path(job["folder"], STATUS).write_text(str(_be_the_command(limit_s=request["limit_s"], **job)))
                os._exit(0)
            running[pid] = number
        while running:
            _tell_an_end(running)


def _data_bytes() -> int:
    """Return what RLIMIT_DATA counts of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))


def _tell_an_end(running: dict[int, int]) -> None:
    pid, status = os.wait()
    sys.stdout.write(json.dumps([running.pop(pid), os.waitstatus_to_exitcode(status)]) + "\n")
    sys.stdout.flush()


def _be_the_command(entry: str, arguments: Sequence[str], folder: str, limit_s: int) -> int:
    """Call an entry point as a script would, and return the exit code that the interpreter would end with."""
    status = 1
    os.chdir(folder)
    for number, name in enumerate((os.devnull, OUT, ERR)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(HOME=folder, TWINCAR_STATE=str(Path(folder, "state")))
    faulthandler.dump_traceback_later(limit_s)
    signal.alarm(limit_s + 1)
    try:
        module, _, name = entry.partition(":")
        main: Callable[[list[str]], None] = getattr(importlib.import_module(module), name)
        main([os.fsdecode(argument.encode("latin-1")) for argument in arguments])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()  # as the interpreter would
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.alarm(0)
    faulthandler.cancel_dump_traceback_later()
    return status


# --- what must hold of every case ---


def check(outcomes: Sequence[Outcome]) -> None:
    """Fail with all that is wrong with any of the cases, and with how to see it again."""
    failures = [
        f"{outcome.case.name}: {'; '.join(faults)}\n"
        f"    cd {outcome.case.folder} && twincar-edge {shlex.join(outcome.case.arguments)}\n"
        + "".join(f"    | {line[:LONGEST_LINE]}\n" for line in outcome.err.splitlines()[-12:])
        for outcome in outcomes
        if (faults := faults_of(outcome))
    ]
    assert not failures, f"{len(failures)} of {len(outcomes)} cases failed:\n" + "\n".join(failures[:10])


def faults_of(outcome: Outcome) -> list[str]:
    """Return what is wrong with how a case ended, nothing where all is well."""
    faults = []
    if outcome.status not in (0, 1, 2):
        named = f"it died of {signal.Signals(-outcome.status).name}" if outcome.status < 0 else "no such exit code"
        faults.append("it hung" if outcome.status == -signal.SIGALRM else f"status {outcome.status}: {named}")
    if "Traceback (most recent call last)" in outcome.err or "Fatal Python error" in outcome.err:
        faults.append("a traceback reached the user")
    if not faults:  # else what stands there is that
        faults += _faults_of_lines(outcome.err, outcome.status)
    if outcome.case.arguments[0] in ("classify", "watch") and "--config" not in outcome.case.arguments:
        faults += [f"no JSON on standard output: {line[:80]!r}" for line in outcome.out.splitlines() if not _json(line)]
    files = [path for path in outcome.case.folder.rglob("*") if path.is_file()]
    faults += [f"{path.name} is left half-written" for path in files if _REMAINS.fullmatch(path.name)]
    for path in files:
        if path.suffix == ".jsonl":
            faults += [f"{path.name} holds {line[:80]!r}" for line in path.read_bytes().splitlines() if not _json(line)]
    for secret in outcome.case.secrets:
        told = (
            secret in outcome.out or secret in outcome.err or any(secret.encode() in one.read_bytes() for one in files)
        )
        faults += [f"{secret!r} is told"] * told
    return faults


def _faults_of_lines(err: str, status: int) -> list[str]:
    """Return what is wrong with what is said on standard error: a few lines, the last of which is the error."""
    faults = []
    lines = [line for line in err.splitlines() if not _NATIVE.match(line)]
    for line in lines:
        if len(line) > LONGEST_LINE or one_line(line) != line:
            faults.append(f"too long or not printable: {line[:120]!r}")
        if _FOREIGN.match(line):
            faults.append(f"a library's own words: {line[:120]!r}")
    errors = [line for line in lines if line.startswith(("error: ", "Error: "))]
    if status == 0 and errors:
        faults.append("an error, and exit code 0")
    if status != 0 and (len(errors) != 1 or lines[-1] != errors[0] or len(lines) > MOST_LINES):
        faults.append(f"exit code {status}, and not one line at the end that says why")
    return faults


def _json(line: str | bytes) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(line, parse_constant=_no_number), dict)
    return False


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


# --- how input is broken ---


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make a folder with files in it."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def damaged(data: bytes, seed: object) -> bytes:
    """Return `data` broken in some way that the seed tells: cut off, or with bytes changed, lost, doubled or added."""
    rng = random.Random(str(seed))
    if rng.random() < 0.15:
        return data[: rng.randrange(len(data))]
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.randrange(len(broken) + 1)
        length = rng.choice((1, 1, 4, 16, 64, len(data) // 4 + 1))
        piece = broken[place : place + length]
        match rng.randrange(7):
            case 0:
                broken[place : place + 1] = rng.randbytes(1)
            case 1 if piece:
                broken[place] ^= 1 << rng.randrange(8)
            case 2:
                number = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
                broken[place : place + 4] = number.to_bytes(4, rng.choice(("little", "big")))
            case 3:
                broken[place : place + length] = bytes(len(piece))
            case 4:
                del broken[place : place + length]
            case 5:
                broken[place:place] = piece
            case _:
                broken[place:place] = rng.randbytes(length)
    return bytes(broken)


def flipped(data: bytes, seed: object, start: int = 0, stop: int | None = None) -> bytes:
    """Return `data` with one to four bytes changed between two places, and as long as it was."""
    rng = random.Random(str(seed))
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(start, len(data) if stop is None else stop)
        broken[place] = rng.choice((rng.randrange(256), broken[place] ^ 1 << rng.randrange(8), 0, 0x7F, 0x80, 0xFF))
    return bytes(broken)


if __name__ == "__main__":
    serve()
