"""The log on standard error: one line per message, whatever its text."""

from __future__ import annotations

import logging

import pytest

from twincar_edge.cli.logs import log_to_stderr

FORGED = "cars\n2026-01-01T00:00:00Z WARNING all is well\r\x1b[2J\u202e"


@pytest.mark.parametrize("journal", [True, False])
def test_a_message_cannot_fake_a_second_line(
    journal: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if journal:
        monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    with log_to_stderr():
        logging.getLogger("twincar_edge.test").warning("new model %s", FORGED)
    out = capfd.readouterr().err
    assert out.count("\n") == 1 and out.rstrip("\n").isprintable()
    assert out.rstrip().endswith("new model cars 2026-01-01T00:00:00Z WARNING all is well \\x1b[2J\\u202e")


def test_a_traceback_keeps_its_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr():
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("twincar_edge.test").exception("it failed")
    assert capfd.readouterr().err.count("\n") > 3
