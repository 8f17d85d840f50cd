"""`watch FILE --page` keeps the page open at a terminal after the file has ended; a script continues."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.tiny_model import RED, tiny_model


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))
    model = tiny_model(tmp_path / "tiny.onnx")
    command = [sys.executable, "-m", "twincar_edge", "watch", str(clip), "--model", str(model)]
    return [*command, "--state", str(tmp_path / "state"), "--page", "127.0.0.1:0"]


def test_a_script_continues_when_the_file_has_ended(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert RED in done.stdout
    assert "the source has ended, so the page is closed: run `twincar-edge page` to see its visits" in done.stderr


def test_at_a_terminal_the_page_stays_open_until_ctrl_c(command: list[str]) -> None:
    window, ours = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=ours) as process:
        os.close(ours)
        said = ""
        while not (found := re.search(r"the page stays open until Ctrl-C: (\S+)\s", said)):
            said += os.read(window, 1000).decode()
        assert RED in urllib.request.urlopen(found[1], timeout=20).read().decode()
        process.send_signal(signal.SIGINT)
        while "events went to" not in said:
            said += os.read(window, 1000).decode()
        assert process.wait(60) == 0
    os.close(window)
