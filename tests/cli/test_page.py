"""`watch --page`, `page` and `token` on the command line."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.tiny_model import tiny_model
from twincar_edge.cli import main
from twincar_edge.cli.token import command as token_command
from twincar_edge.cli.watch import command
from twincar_edge.runtime.listening import PAGE_ADDRESS


@pytest.mark.parametrize(
    ("arguments", "source", "address"),
    [
        (["--page", "gate.mp4"], "gate.mp4", PAGE_ADDRESS),
        (["gate.mp4", "--page"], "gate.mp4", PAGE_ADDRESS),
        (["--page", "0.0.0.0:8600", "gate.mp4"], "gate.mp4", "0.0.0.0:8600"),
        (["--page=:80", "gate.mp4"], "gate.mp4", ":80"),
        (["gate.mp4", "--page", "[::1]:8600"], "gate.mp4", "[::1]:8600"),
        (["--page", "rtsp://camera:554/live"], "rtsp://camera:554/live", PAGE_ADDRESS),
        (["--page", "--json", "gate.mp4"], "gate.mp4", PAGE_ADDRESS),
        (["gate.mp4"], "gate.mp4", None),
    ],
)
def test_the_address_after_page_is_optional(arguments: list[str], source: str, address: str | None) -> None:
    params = command.make_context("watch", list(arguments)).params
    assert (params["source"], params["page"]) == (source, address)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code, capsys.readouterr().err


def test_an_address_in_use_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = run(capsys, "page", address, "--state", str(tmp_path))
    assert code == 2
    assert said.count("\n") == 1
    assert f"cannot serve the page at {address}" in said


def test_without_the_extra_both_commands_name_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    model = str(tiny_model(tmp_path / "tiny.onnx"))
    clip = str(write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 10)))
    for arguments in (["page"], ["watch", clip, "--model", model, "--page", "127.0.0.1:0"]):
        code, said = run(capsys, *arguments, "--state", str(tmp_path))
        assert code == 2
        assert "twincar-edge[page]" in said


def said(process: subprocess.Popen[str], before: str) -> str:
    """Return the rest of the line that begins with `before`."""
    assert process.stderr is not None
    return next(line for line in process.stderr if line.startswith(before)).removeprefix(before).strip()


def test_a_page_prints_its_url_and_shows_its_first_token_once(tmp_path: Path) -> None:
    page = [sys.executable, "-m", "twincar_edge", "page", "127.0.0.1:0", "--tokens", "--state", str(tmp_path)]
    with subprocess.Popen(page, stderr=subprocess.PIPE, text=True) as process:
        url = said(process, "page: ")
        token = said(process, "page token, shown only once: ")
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with subprocess.Popen(page, stderr=subprocess.PIPE, text=True) as process:
        assert said(process, "page: ").startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "token" not in process.stderr.read()


def test_tokens_are_created_listed_and_removed(tmp_path: Path) -> None:
    def token(*arguments: str) -> str:
        return CliRunner().invoke(token_command, [*arguments, "--state", str(tmp_path)], catch_exceptions=False).stdout

    text = token("add", "anna", "--role", "teach").strip()
    assert len(text) >= 32
    assert re.search(r"^ Name +Role +Created *\n ─+ *\n anna +teach +20\d\d-", token("list"), re.MULTILINE)
    assert text not in token("list")
    token("remove", "anna")
    assert token("list") == ""
