"""`watch --show`: on a real X server, where one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.tiny_model import tiny_model
from tests.support.visit_toys import frame
from twincar_edge.cli import main
from twincar_edge.errors import InputError
from twincar_edge.runtime.annotating import window
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.loop.answering import LiveFrame


@pytest.fixture
def display() -> Iterator[str]:
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb")
    reading, writing = os.pipe()
    server = subprocess.Popen(["Xvfb", "-displayfd", str(writing)], pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading) as number:
        yield f":{number.readline().strip()}"
    server.terminate()
    server.wait()


def test_a_run_is_displayed_and_publishes_its_events(display: str, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 10)], 45))
    command = [sys.executable, "-m", "twincar_edge", "watch", str(clip), "--show"]
    command += ["--model", str(tiny_model(tmp_path / "tiny.onnx"))]
    done = subprocess.run(command, env={**os.environ, "DISPLAY": display}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_window_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("the window system is gone")

    monkeypatch.setattr(window, "require_display", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", fail)
    windows = window.Windows([CameraConfig(name="gate")])
    windows(LiveFrame("gate", frame(), ()))
    stop = threading.Event()
    ended: list[bool] = []
    with pytest.raises(InputError, match="the window failed: the window system is gone; run this in a desktop session"):
        windows.run(lambda: ended.append(stop.wait(10)), stop)
    assert ended == [True]


@pytest.mark.parametrize("display", ["", ":99999"])
def test_without_a_display_the_run_does_not_start(
    display: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    clip = write_video(tmp_path / "gate.mp4", film([], 5))
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(clip), "--show"])
    shown = capfd.readouterr()
    assert ended.value.code == 2
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert "window" in shown.err
