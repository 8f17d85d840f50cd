"""Shared by the fuzz tests: run the command line on thousands of broken inputs, and check what it does.

Imports take a second per start. So one process imports everything that the commands need, and forks. Each child calls
the real entry point for a few cases in turn, each case in its own folder. When a child dies, or an alarm kills it
because a case takes too long, the rest of its cases run again, each in its own process.
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
LIMIT_S = 60  # per case; even on a busy machine, only a hang takes longer (a network timeout is 10 s)
MEMORY_BYTES = 6 * 2**30
LONGEST_LINE = 1500
OUT, ERR, STATUS = "stdout", "stderr", "status"  # files in the folder of a case
MOST_LINES = 4  # of stderr after a failure: a skipped image, a camera that ended, and the error
# Modules that the commands import when they run.
PRELOADED = (
    "av", "cv2", "onnxruntime", "rich.table", "watchfiles", "twincar_edge.cli.classify", "twincar_edge.cli.doctor",
    "twincar_edge.cli.events", "twincar_edge.cli.inspect", "twincar_edge.cli.watch", "twincar_edge.runtime.classify",
    "twincar_edge.runtime.configuration.config_file",
    "twincar_edge.runtime.monitoring.server", "twincar_edge.runtime.selftest.doctor", "twincar_edge.runtime.service",
    "twincar_edge.runtime.sinks.mqtt", "twincar_edge.runtime.truth",
)  # fmt: skip
# A process with threads must not fork: these variables keep libraries from starting threads on import.
_NO_THREADS = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1",
}  # fmt: skip
# libjpeg and libpng print these lines about damaged pictures; nothing can silence them.
_NATIVE = re.compile(r"libpng (error|warning): |Corrupt JPEG data: |Premature end of JPEG file|Invalid SOS parameters")
# OpenCV, FFmpeg, ONNX Runtime and C++ can be silenced, and must be.
_LIBRARY_OUTPUT = re.compile(r"\[ ?[A-Z]+[:@]|\[\w+(,\w+)* @ 0x|\*\*\*|OpenCV|terminate called|\d{4}-\d\d-\d\d ")
_TEMPORARY_FILE = re.compile(r"\.[0-9a-f]{16}(\..*)?")  # from `files.replacing`


@dataclass(frozen=True)
class Case:
    """One command line. It runs in `folder`, reads files there, and may write only there.

    `name` says how the input was made. None of `secrets` may appear in the output or in a file.
    """

    arguments: tuple[str, ...]
    folder: Path
    name: str
    secrets: tuple[str, ...] = ()
    entry: str = ENTRY


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `status` is the exit code, or the negative number of a signal."""

    case: Case
    status: int
    out: str
    err: str


class CommandLine:
    """Runs cases in parallel. A context manager."""

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
        """End the process that forks."""
        self._process.communicate()

    def run(
        self,
        cases: Iterable[Case],
        *,
        processes: int = 6,
        cases_per_process: int = 8,
        limit_s: int = LIMIT_S,
        headroom_bytes: int | None = None,
    ) -> list[Outcome]:
        """Run all cases, `cases_per_process` in turn in each of `processes` parallel processes.

        With `headroom_bytes`, each process may allocate only so much beyond what the imports took.
        """
        cases = list(cases)
        limits = {"processes": processes, "limit_s": limit_s, "headroom_bytes": headroom_bytes}
        starts = range(0, len(cases), cases_per_process)
        self._fork([cases[start : start + cases_per_process] for start in starts], limits)
        unfinished = [case for case in cases if not (case.folder / STATUS).exists()]
        died = dict(zip(unfinished, self._fork([[case] for case in unfinished], limits), strict=True))
        return [
            Outcome(
                case,
                int(_pop_text(case.folder / STATUS)) if (case.folder / STATUS).exists() else died[case],
                _pop_text(case.folder / OUT),
                _pop_text(case.folder / ERR),
            )
            for case in cases
        ]

    def _fork(self, groups: list[list[Case]], limits: dict[str, int | None]) -> list[int]:
        """Run each group of cases in a process; return the exit code of each process, negative for a signal."""
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
    """Encode an argument for JSON, whatever bytes it stands for."""
    return os.fsencode(argument).decode("latin-1")


def _pop_text(path: Path) -> str:
    """Return the text of a file, and delete the file."""
    text = path.read_text("utf-8", "backslashreplace")
    path.unlink()
    return text


# --- the process that forks ---


def serve() -> None:
    """Read groups of jobs as lines of JSON from standard input; write the exit code of each to standard output."""
    for module in PRELOADED:
        importlib.import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "an import started a thread: forking is not safe"  # noqa: PTH208
    for line in sys.stdin:
        request = json.loads(line)
        running: dict[int, int] = {}
        for number, group in enumerate(request["jobs"]):
            if len(running) == request["processes"]:
                _report_exit(running)
            if (pid := os.fork()) == 0:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
                if request["headroom_bytes"] is not None:
                    limit_memory(_data_bytes() + request["headroom_bytes"])
                for job in group:
                    Path(job["folder"], STATUS).write_text(str(_run_entry_point(limit_s=request["limit_s"], **job)))
                os._exit(0)
            running[pid] = number
        while running:
            _report_exit(running)


def _data_bytes() -> int:
    """Return the memory of this process that RLIMIT_DATA counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))


def _report_exit(running: dict[int, int]) -> None:
    """Wait for one process and write its number and exit code."""
    pid, status = os.wait()
    sys.stdout.write(json.dumps([running.pop(pid), os.waitstatus_to_exitcode(status)]) + "\n")
    sys.stdout.flush()


def _run_entry_point(entry: str, arguments: Sequence[str], folder: str, limit_s: int) -> int:
    """Call an entry point as a script would; return the exit code that the interpreter would return."""
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


# --- checks of every case ---


def check(outcomes: Sequence[Outcome]) -> None:
    """Fail if any case has faults; list them, with commands that reproduce them."""
    failures = [
        f"{outcome.case.name}: {'; '.join(faults)}\n"
        f"    cd {outcome.case.folder} && twincar-edge {shlex.join(outcome.case.arguments)}\n"
        + "".join(f"    | {line[:LONGEST_LINE]}\n" for line in outcome.err.splitlines()[-12:])
        for outcome in outcomes
        if (faults := faults_of(outcome))
    ]
    message = f"{len(failures)} of {len(outcomes)} cases failed:\n" + "\n".join(failures[:10])
    # pytest-xdist cannot send a lone surrogate: the worker would end with an internal error that hides the failure.
    assert not failures, message.encode("utf-8", "backslashreplace").decode("utf-8")


def faults_of(outcome: Outcome) -> list[str]:
    """Return the faults of a case."""
    faults = []
    if outcome.status not in (0, 1, 2):
        kind = f"killed by {signal.Signals(-outcome.status).name}" if outcome.status < 0 else "unexpected exit code"
        faults.append("hung" if outcome.status == -signal.SIGALRM else f"status {outcome.status}: {kind}")
    if "Traceback (most recent call last)" in outcome.err or "Fatal Python error" in outcome.err:
        faults.append("a traceback reached the user")
    if not faults:  # otherwise stderr is the traceback
        faults += _faults_of_lines(outcome.err, outcome.status)
    if outcome.case.arguments[0] in ("classify", "watch") and "--config" not in outcome.case.arguments:
        faults += [f"no JSON on standard output: {line[:80]!r}" for line in outcome.out.splitlines() if not _json(line)]
    files = [path for path in outcome.case.folder.rglob("*") if path.is_file()]
    faults += [f"temporary file {path.name} not removed" for path in files if _TEMPORARY_FILE.fullmatch(path.name)]
    for path in files:
        if path.suffix == ".jsonl":
            faults += [f"{path.name} holds {line[:80]!r}" for line in path.read_bytes().splitlines() if not _json(line)]
    for secret in outcome.case.secrets:
        leaked = (
            secret in outcome.out or secret in outcome.err or any(secret.encode() in one.read_bytes() for one in files)
        )
        faults += [f"secret {secret!r} leaked"] * leaked
    return faults


def _faults_of_lines(err: str, status: int) -> list[str]:
    """Return the faults of stderr. It may have a few lines; the last is the error."""
    faults = []
    lines = [line for line in err.splitlines() if not _NATIVE.match(line)]
    for line in lines:
        if len(line) > LONGEST_LINE or one_line(line) != line:
            faults.append(f"too long or not printable: {line[:120]!r}")
        if _LIBRARY_OUTPUT.match(line):
            faults.append(f"output of a library: {line[:120]!r}")
    errors = [line for line in lines if line.startswith(("error: ", "Error: "))]
    if status == 0 and errors:
        faults.append("an error with exit code 0")
    if status != 0 and (len(errors) != 1 or lines[-1] != errors[0] or len(lines) > MOST_LINES):
        faults.append(f"exit code {status} without exactly one error line at the end")
    return faults


def _json(line: str | bytes) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(line, parse_constant=_reject_constant), dict)
    return False


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


# --- broken input ---


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make a folder with these files and return it."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def damaged(data: bytes, seed: object) -> bytes:
    """Return `data` damaged in a way that depends on the seed: cut off, or bytes changed, lost, repeated or added."""
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
    """Return `data` with one to four bytes changed between `start` and `stop`, and of the same length."""
    rng = random.Random(str(seed))
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(start, len(data) if stop is None else stop)
        broken[place] = rng.choice((rng.randrange(256), broken[place] ^ 1 << rng.randrange(8), 0, 0x7F, 0x80, 0xFF))
    return bytes(broken)


if __name__ == "__main__":
    serve()
