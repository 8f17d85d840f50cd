"""Notifications to systemd, received on a real socket."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twincar_edge.runtime.monitoring.systemd import Notifier


class Systemd:
    """A datagram socket in place of systemd's, and its name for `$NOTIFY_SOCKET`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.settimeout(20)

    def receive(self) -> str:
        return self.socket.recv(4096).decode()

    def silent(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(20)
        return False


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    end = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@twincar-{os.getpid()}-{tmp_path.name}")
    with end.socket:
        yield end


def test_a_service_notifies_ready_status_and_stopping(systemd: Systemd) -> None:
    with Notifier.from_environment(environ={"NOTIFY_SOCKET": systemd.name}) as notifier:
        assert systemd.silent()
        notifier.ready("2 cameras\nMAINPID=1")
        assert systemd.receive() == "READY=1\nSTATUS=2 cameras MAINPID=1"
    assert systemd.receive() == "STOPPING=1"


def test_a_reload_starts_with_the_monotonic_time_and_ends_ready_even_after_a_failure(systemd: Systemd) -> None:
    notifier = Notifier(systemd.name)
    before_usec = time.monotonic_ns() // 1000
    with pytest.raises(KeyError), notifier.reloading():
        raise KeyError
    found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", systemd.receive())
    assert found is not None
    assert before_usec <= int(found[1]) <= time.monotonic_ns() // 1000
    assert systemd.receive() == "READY=1"


def test_a_working_loop_pings_the_watchdog_repeatedly(systemd: Systemd) -> None:
    environ = {"NOTIFY_SOCKET": systemd.name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "42"}
    with Notifier.from_environment(environ=environ, pid=42):
        assert [systemd.receive() for _ in range(4)] == ["WATCHDOG=1"] * 4


def test_a_stalled_loop_sends_no_pings_until_it_recovers(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([True, False, False, False])
    stuck, recovered = threading.Event(), threading.Event()

    def alive() -> bool:
        answer = next(answers, None)
        if answer is None:
            stuck.set()
            return recovered.is_set()
        return answer

    with Notifier(systemd.name, 0.02, alive):
        assert systemd.receive() == "WATCHDOG=1"
        assert stuck.wait(20)
        assert systemd.silent()
        recovered.set()
        assert systemd.receive() == "WATCHDOG=1"
    assert sum("withholding watchdog pings" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "²"},
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
    ],
)
def test_a_watchdog_that_is_disabled_or_for_another_process_starts_no_thread(
    systemd: Systemd, environ: dict[str, str]
) -> None:
    before = threading.active_count()
    with Notifier.from_environment(environ={"NOTIFY_SOCKET": systemd.name, **environ}):
        assert threading.active_count() == before


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_systemd_nothing_is_sent_or_logged(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    with Notifier.from_environment(environ={**environ, "WATCHDOG_USEC": "20000"}) as notifier:
        assert threading.active_count() == before
        notifier.ready()
        with notifier.reloading():
            pass
    assert caplog.messages == []


def test_failed_notifications_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Notifier(str(tmp_path / "nobody")) as notifier:
        notifier.ready()
    (line,) = caplog.messages
    assert "cannot notify systemd" in line
