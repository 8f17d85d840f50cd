"""Servers that tests talk to: real ones, in processes of their own."""

from __future__ import annotations

import os
import socket
from typing import NoReturn

import pytest

INSISTS = "TWINCAR_TEST_SERVERS"


def require_server(reason: str) -> NoReturn:
    """Give a test up because a server is not installed here: a skip, or a failure where `TWINCAR_TEST_SERVERS=1`."""
    if os.environ.get(INSISTS) == "1":
        pytest.fail(f"{reason} ({INSISTS}=1 asks for it)")
    pytest.skip(reason)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
