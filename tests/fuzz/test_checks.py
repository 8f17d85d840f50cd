"""The number of fuzz cases of each kind, and the checks that detect a failing case."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.fuzz import test_bombs, test_config, test_images, test_models, test_urls, test_videos
from tests.support.fuzzing import LIMIT_S, Case, CommandLine, Outcome, check, damaged, faults_of, flipped, put

KINDS = {
    "images": test_images, "videos": test_videos, "URLs": test_urls, "configurations": test_config,
    "models": test_models, "bombs": test_bombs,
}  # fmt: skip


def test_there_are_thousands_of_fuzz_cases_and_many_of_each_kind() -> None:
    cases = {kind: module.CASES for kind, module in KINDS.items()}  # each module asserts its own number
    assert sum(cases.values()) >= 2600
    assert sum(cases.values()) + sum(module.SLOW_CASES for module in KINDS.values()) >= 4000
    assert min(cases.values()) >= 150


# --- entry points that replace the real one ---


def answers(_arguments: list[str]) -> None:
    sys.stdout.write('{"well": true}\n')


def raises(_arguments: list[str]) -> None:
    raise ZeroDivisionError


def raises_in_a_thread(_arguments: list[str]) -> None:
    thread = threading.Thread(target=raises, args=([],))
    thread.start()
    thread.join()


def dies(_arguments: list[str]) -> None:
    os.abort()


def hangs(_arguments: list[str]) -> None:
    time.sleep(60)


def waits_for_a_thread(_arguments: list[str]) -> None:
    threading.Thread(target=hangs, args=([],)).start()


def takes_all_memory(_arguments: list[str]) -> None:
    bytes(2**40)


def fails_silently(_arguments: list[str]) -> None:
    raise SystemExit(2)


def leaks_a_secret(_arguments: list[str]) -> None:
    Path("log").write_text("hunter2")


def leaves_a_temporary_file(_arguments: list[str]) -> None:
    Path(".0123456789abcdef.jpg").touch()


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (answers, None),
        (raises, "a traceback"),
        (raises_in_a_thread, "a traceback"),
        (dies, "killed by SIGABRT"),
        (hangs, "hung"),
        (waits_for_a_thread, "hung"),
        (takes_all_memory, "a traceback"),
        (fails_silently, "without exactly one error line"),
        (leaks_a_secret, "secret 'hunter2' leaked"),
        (leaves_a_temporary_file, "not removed"),
    ],
)
def test_a_failing_case_is_reported_with_the_command_that_reproduces_it(
    entry: object, fault: str | None, command_line: CommandLine, tmp_path: Path
) -> None:
    name = entry.__name__  # type: ignore[attr-defined]
    case = Case(
        ("classify", "a b.jpg"), put(tmp_path / "case", {}), "seed 7", ("hunter2",), f"tests.fuzz.test_checks:{name}"
    )
    outcomes = command_line.run([case], limit_s=1 if entry in (hangs, waits_for_a_thread) else LIMIT_S)
    if fault is None:
        check(outcomes)
        return
    with pytest.raises(AssertionError) as caught:
        check(outcomes)
    message = str(caught.value)
    assert fault in message
    assert "1 of 1 cases failed" in message and "seed 7" in message
    assert f"cd {tmp_path / 'case'} && twincar-edge classify 'a b.jpg'" in message


@pytest.mark.parametrize(
    ("status", "out", "err", "fault"),
    [
        (0, "", "", None),
        (2, "", "error: cannot read a.jpg: it is empty\n", None),
        (2, "", "skipped: a.jpg is empty\nerror: a.jpg is empty\n", None),
        (2, "", "libpng error: bad adaptive filter value\nerror: a.png cannot be decoded\n", None),
        (2, "", "error: one\nerror: two\n", "without exactly one error line"),
        (2, "", "error: one\nand more\n", "without exactly one error line"),
        (2, "", "a\n" * 9 + "error: one\n", "without exactly one error line"),
        (0, "", "error: one\n", "exit code 0"),
        (3, "", "error: one\n", "unexpected exit code"),
        (2, "", f"error: {'x' * 2000}\n", "too long"),
        (2, "", "error: \x1b[31mred\n", "not printable"),
        (0, "", "[ WARN:0@0.1] global loadsave.cpp\n", "output of a library"),
        (0, "", "[mov,mp4,m4a @ 0x55d0] moov atom not found\n", "output of a library"),
        (0, "*** EP Error ***\n", "", "no JSON"),
        (0, '{"a": NaN}\n', "", "no JSON"),
        (0, '{"a": 1', "", "no JSON"),
    ],
)
def test_output_other_than_events_and_one_error_line_is_a_fault(
    status: int, out: str, err: str, fault: str | None, tmp_path: Path
) -> None:
    faults = faults_of(Outcome(Case(("classify", "a.jpg"), tmp_path, "a"), status, out, err))
    assert (not faults) if fault is None else any(fault in one for one in faults), faults


def test_the_seed_determines_the_damage() -> None:
    good = bytes(range(256)) * 4
    for damage in (damaged, flipped):
        assert damage(good, 1) == damage(good, 1) != good
        assert len({damage(good, seed) for seed in range(100)}) > 95
    assert all(len(flipped(good, seed, 10, 20)) == len(good) for seed in range(50))
    assert all(flipped(good, seed, 10, 20)[20:] == good[20:] for seed in range(50))
