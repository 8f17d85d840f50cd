"""If standard output fails, each command reports it in one line and exits with 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.readers import without_reader
from tests.support.tiny_model import tiny_model
from twincar_edge.images import write_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipes")
    tiny_model(folder / "tiny.onnx")
    frames = film([drive_by(RED_BGR, 5)], 45)
    write_video(folder / "gate.mp4", frames)
    write_image(folder / "car.png", frames[20])
    assert run(folder, "watch --model tiny.onnx --store store.db gate.mp4", ">/dev/null").returncode == 0
    return folder


def run(folder: Path, command: str, redirection: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        f"exec {sys.executable} -m twincar_edge {command} {redirection}",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"TWINCAR_STATE": str(folder / "state")} | environ,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirection", "reason"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize("command", ["inspect tiny.onnx", "classify --model tiny.onnx car.png"])
def test_a_failed_print_is_one_line(folder: Path, command: str, redirection: str, reason: str, unbuffered: str) -> None:
    done = run(folder, command, redirection, PYTHONUNBUFFERED=unbuffered)
    assert done.stderr == f"error: cannot write to standard output: {reason}\n"
    assert done.returncode == 2


def test_a_failed_print_of_the_help_is_one_line(folder: Path) -> None:
    done = run(folder, "--help", ">/dev/full")
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"
    assert done.returncode == 2


def test_a_token_that_cannot_be_printed_is_not_kept(folder: Path) -> None:
    assert run(folder, "token add box", ">/dev/full").returncode == 2
    assert run(folder, "token list", "").stdout == ""
    assert run(folder, "token add box", "").returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["inspect --json tiny.onnx", "inspect tiny.onnx", "events --store store.db"])
def test_a_pipe_that_is_closed_while_a_command_prints_ends_it_quietly(
    folder: Path, command: str, unbuffered: str
) -> None:
    done = without_reader(folder, "-m", "twincar_edge", *command.split(), PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["--help", "--version", "watch --help", "events export --help"])
def test_help_without_a_reader_ends_quietly(folder: Path, command: str) -> None:
    done = without_reader(folder, "-m", "twincar_edge", *command.split())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "code", "answers"),
    [
        ("classify --model tiny.onnx nothing.png car.png", 0, 1),
        ("classify --model tiny.onnx nothing.png", 2, 0),
        ("watch --model tiny.onnx --store none gate.mp4", 0, 1),
        ("inspect nothing.onnx", 2, 0),
        ("inspect --no-such-option", 2, 0),
        ("--version", 0, 1),
    ],
)
def test_a_standard_error_that_fails_changes_neither_answers_nor_exit_code(
    folder: Path, command: str, code: int, answers: int
) -> None:
    full = run(folder, command, "2>/dev/full")
    assert (full.returncode, len(full.stdout.splitlines())) == (code, answers)
    gone = without_reader(folder, "-m", "twincar_edge", *command.split(), stream="stderr")
    assert (gone.returncode, len(gone.stdout.splitlines())) == (code, answers)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "bench tiny.onnx --ep cpu --warmup 1 --rounds 1 --per-round 2 --max-p95 0.0001 -o report.json",
            "(limit 0.0001 ms)",
        ),
        ("doctor --model car.png --ep cpu", "checks failed on this machine: model"),
    ],
)
def test_a_check_that_fails_is_exit_code_1_although_the_reader_has_gone(
    folder: Path, command: str, message: str
) -> None:
    done = without_reader(folder, "-m", "twincar_edge", *command.split())
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    if "-o" in command:
        (folder / "report.json").unlink()


def test_explain_writes_all_pictures_although_the_reader_has_gone(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "car.png").read_bytes())
    done = without_reader(folder, "-m", "twincar_edge", "explain", "car.png", "copy.png", "-o", str(tmp_path))
    assert done.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"car.png", "copy.png", "sheet.jpg"}


def test_a_training_continues_although_the_reader_of_its_lines_has_gone(folder: Path) -> None:
    program = (
        "import sys\nfrom twincar_edge.cli.options import echo_above, progress_bar\n"
        "from twincar_edge.cli.pipes import prepare_streams\nprepare_streams()\nwith progress_bar() as bar:\n"
        "    for epoch in range(3):\n        echo_above(bar, f'epoch {epoch}')\nprint('trained', file=sys.stderr)"
    )
    assert without_reader(folder, "-c", program).stderr == "trained\n"


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_watch_reports_lost_events(folder: Path, redirection: str) -> None:
    done = run(folder, "watch --model tiny.onnx --store none gate.mp4", redirection)
    assert "stdout lost 1 event: cannot write to standard output" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_watch_with_an_output_file_needs_no_standard_streams(folder: Path) -> None:
    done = run(folder, "watch --model tiny.onnx --store none -o events.jsonl gate.mp4", ">&- 2>&- <&-")
    assert done.returncode == 0
    assert len((folder / "events.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("command", ["inspect tiny.onnx", "doctor --model tiny.onnx"])
def test_a_character_that_the_locale_lacks_is_replaced(folder: Path, command: str) -> None:
    done = run(folder, command, "", PYTHONIOENCODING="ascii")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1) if command.startswith("doctor") else done.returncode == 0
    assert done.stdout.isascii()
