"""Reloading the model while the loop runs: a good file is loaded, any other is refused and the old model stays."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.tiny_model import BLUE, CLASSES, digested, tiny_model
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import sha256
from twincar_edge.golden import GOLDEN_KEY
from twincar_edge.model_file import ModelFile, read_model_file
from twincar_edge.onnx_metadata import with_metadata
from twincar_edge.runtime import reload
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.runtime.monitoring.systemd import Notifier
from twincar_edge.runtime.reload import ModelReloader
from twincar_edge.trust import Trust

BLUE_CAR = np.full((32, 32, 3), (255, 0, 0), np.uint8)
GRAY = np.full((32, 32, 3), 90, np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model.onnx", golden=True)


@pytest.fixture
def session(model: Path) -> ModelSession:
    return open_session(model, ep="cpu", threads=1)


def other_model(path: Path, **options: Any) -> bytes:
    """The bytes of a good model, different from the one in use."""
    return tiny_model(path, golden=True, temperature=2.0, **options).read_bytes()


class Taken:
    """Replaces the loop: records the classifiers that it gets."""

    def __init__(self) -> None:
        self.classifiers: list[Classifier] = []

    def __call__(self, classifier: Classifier) -> None:
        self.classifiers.append(classifier)


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the check in a child process, which takes a second: these tests are about reading the file twice."""
    monkeypatch.setattr(reload, "check_in_subprocess", lambda _rehearsal, _stop: None)


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, reload.__name__):
        yield


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(reloader: ModelReloader) -> dict[str, int]:
    """Request a reload, wait for its outcome, and return the counts."""
    before = sum(reloader.counts().values())
    reloader.request()
    until(lambda: sum(reloader.counts().values()) > before)
    return {outcome: count for outcome, count in reloader.counts().items() if count}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == reload.__name__]


def test_a_good_new_file_is_used_after_the_reload(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.write_bytes(other_model(tmp_path / "new.onnx"))
    with ModelReloader(session, taken) as reloader:
        assert ask(reloader) == {"taken": 1}
        assert ask(reloader) == {"taken": 1, "unchanged": 1}
    (classifier,) = taken.classifiers
    assert classifier.session.sha256 == sha256(model) != session.sha256
    assert classifier.predict([BLUE_CAR])[0].name == BLUE
    assert lines(caplog) == [
        f"new model tiny ({sha256(model)[:12]}, fp32, 3 classes)",
        f"model file {model} is unchanged ({sha256(model)[:12]})",
    ]


def test_an_unchanged_file_is_not_reopened(
    session: ModelSession, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    with ModelReloader(session, taken) as reloader:
        assert ask(reloader) == {"unchanged": 1}
    assert taken.classifiers == []
    assert "is unchanged" in lines(caplog)[0]


def drifted(path: Path) -> bytes:
    """A model whose weights differ from those that its golden inputs were made with."""
    graph = onnx.load(str(tiny_model(path, golden=True)))
    for tensor in graph.graph.initializer:
        if tensor.name == "weights":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.5), "weights"))
    return digested(graph)


BAD: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda path: b"",
    "noise": lambda path: os.urandom(5000),
    "half": lambda path: other_model(path)[: len(other_model(path)) // 2],
    "not ours": lambda path: tiny_model(path, metadata=False).read_bytes(),
    "drifted": drifted,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line_and_a_later_good_one_is_loaded(
    kind: str, model: Path, session: ModelSession, taken: Taken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.write_bytes(BAD[kind](tmp_path / "bad.onnx"))
    with ModelReloader(session, taken) as reloader:
        assert ask(reloader) == {"refused": 1}
        assert taken.classifiers == []
        (line,) = lines(caplog)
        assert line.startswith(f"new model refused, tiny ({session.sha256[:12]}) stays in use: ")
        assert str(model) in line
        assert Classifier(session).predict([BLUE_CAR])[0].name == BLUE
        model.write_bytes(other_model(tmp_path / "new.onnx"))
        assert ask(reloader) == {"refused": 1, "taken": 1}


def test_a_missing_file_or_a_folder_is_refused(
    model: Path, session: ModelSession, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    model.unlink()
    with ModelReloader(session, taken) as reloader:
        assert ask(reloader) == {"refused": 1}
        model.mkdir()
        assert ask(reloader) == {"refused": 2}
    assert len(lines(caplog)) == 2


def test_a_drifted_file_is_loaded_if_drift_is_allowed(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path
) -> None:
    model.write_bytes(drifted(tmp_path / "drifted.onnx"))
    with ModelReloader(session, taken, allow_drift=True) as reloader:
        assert ask(reloader) == {"taken": 1}


def test_a_model_with_other_classes_is_loaded_and_the_change_is_logged(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes = (*CLASSES[:2], "Pollux Blue SUV 2025", "Pollux Black SUV 2025")
    model.write_bytes(other_model(tmp_path / "new.onnx", classes=classes))
    with ModelReloader(session, taken) as reloader:
        assert ask(reloader) == {"taken": 1}
    assert lines(caplog)[0].endswith(": 2 classes added, 1 removed")
    assert taken.classifiers[0].predict([BLUE_CAR])[0].name == "Pollux Blue SUV 2025"


def test_a_file_that_is_still_being_written_is_read_again_once_complete(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = other_model(tmp_path / "new.onnx")
    model.write_bytes(whole[: len(whole) // 2])

    def read_and_write_on(path: Path) -> ModelFile:
        try:
            return read_model_file(path)
        finally:
            model.write_bytes(whole)

    monkeypatch.setattr(reload, "read_model_file", read_and_write_on)
    with ModelReloader(session, taken, settle_s=0.01) as reloader:
        assert ask(reloader) == {"taken": 1}
    assert taken.classifiers[0].session.sha256 == sha256(model)


@pytest.mark.usefixtures("in_this_process")
def test_a_file_that_is_replaced_while_it_is_opened_is_read_again(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = other_model(tmp_path / "first.onnx")
    second = other_model(tmp_path / "second.onnx", reject_below=0.9)
    model.write_bytes(first)

    def open_and_replace(path: Path, **options: Any) -> ModelSession:
        try:
            return open_session(path, **options)
        finally:
            model.write_bytes(second)

    monkeypatch.setattr(reload, "open_session", open_and_replace)
    with ModelReloader(session, taken, settle_s=0.01) as reloader:
        assert ask(reloader) == {"taken": 1}
    (classifier,) = taken.classifiers
    assert classifier.session.sha256 == sha256(model)
    assert classifier.predict([GRAY])[0].name == "unknown"


def test_a_file_that_keeps_changing_is_refused_after_some_attempts(
    model: Path, session: ModelSession, taken: Taken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reads = []

    def read_and_change(path: Path) -> ModelFile:
        reads.append(path)
        model.write_bytes(os.urandom(100))
        return read_model_file(path)

    model.write_bytes(os.urandom(100))
    monkeypatch.setattr(reload, "read_model_file", read_and_change)
    with ModelReloader(session, taken, settle_s=0.001, attempts=3) as reloader:
        assert ask(reloader) == {"refused": 1}
    assert len(reads) == 3
    assert "keeps changing while it is read" in lines(caplog)[0]


def test_stopping_does_not_wait_for_a_changing_file(
    model: Path, session: ModelSession, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()

    def read_and_change(path: Path) -> ModelFile:
        opened.set()
        model.write_bytes(os.urandom(100))
        return read_model_file(path)

    model.write_bytes(os.urandom(100))
    monkeypatch.setattr(reload, "read_model_file", read_and_change)
    with ModelReloader(session, taken, settle_s=3600.0) as reloader:
        reloader.request()
        assert opened.wait(30)
    assert not any(thread.name == "reload" for thread in threading.enumerate())


def test_switch_uses_another_file_and_later_reloads_read_it(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    other_model(other)
    with ModelReloader(session, taken) as reloader:
        assert reloader.switch(other) == "taken"
        assert ask(reloader) == {"taken": 1, "unchanged": 1}
        other.write_bytes(other_model(tmp_path / "newer.onnx", reject_below=0.9))
        assert ask(reloader) == {"taken": 2, "unchanged": 1}
    assert [one.session.model for one in taken.classifiers] == [other, other]


def test_a_failed_switch_is_an_error_for_the_caller_and_the_old_model_stays(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(drifted(tmp_path / "drifted.onnx"))
    with ModelReloader(session, taken) as reloader:
        with pytest.raises(ModelError, match=r"bad\.onnx"):
            reloader.switch(bad)
        assert ask(reloader) == {"refused": 1, "unchanged": 1}  # the file in use is still the old one
    with pytest.raises(InputError, match="the run has ended"):
        reloader.switch(model)
    assert taken.classifiers == []


@pytest.mark.usefixtures("in_this_process")
def test_a_bug_is_an_error_for_all_waiting_callers_and_the_thread_goes_on(
    session: ModelSession, taken: Taken, tmp_path: Path
) -> None:
    def use(classifier: Classifier) -> None:
        if not failed:
            failed.append(True)
            raise ZeroDivisionError("a defect")
        taken(classifier)

    failed: list[bool] = []
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        other_model(file)
    reloader = ModelReloader(session, use)
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(reloader.switch, file) for file in files]
        until(lambda: reloader._requests.qsize() == 2)
        with reloader:
            for call in calls:
                with pytest.raises(ZeroDivisionError, match="a defect"):
                    call.result(30)
            assert reloader.switch(files[0]) == "taken"
            assert reloader.counts() == {"taken": 1, "unchanged": 0, "refused": 1}
            assert "a defect" in reloader.faults()[0]


def test_sighup_requests_a_reload_each_time(model: Path, session: ModelSession, taken: Taken, tmp_path: Path) -> None:
    model.write_bytes(other_model(tmp_path / "new.onnx"))
    with ModelReloader(session, taken) as reloader:
        before = signal.signal(signal.SIGHUP, lambda _number, _frame: reloader.request())
        try:
            for _ in range(50):
                os.kill(os.getpid(), signal.SIGHUP)
            until(lambda: reloader.counts()["taken"] == 1)
        finally:
            signal.signal(signal.SIGHUP, before)
    assert len(taken.classifiers) == 1


def test_the_reload_is_reported_to_systemd(session: ModelSession, taken: Taken, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        with ModelReloader(session, taken, notifier=Notifier(str(tmp_path / "notify"))) as reloader:
            reloader.request()
            assert systemd.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert systemd.recv(4096) == b"READY=1"


def test_the_new_model_runs_on_the_provider_and_threads_of_the_old_one(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path
) -> None:
    model.write_bytes(other_model(tmp_path / "new.onnx"))
    with ModelReloader(replace(session, threads=3), taken) as reloader:
        assert ask(reloader) == {"taken": 1}
    assert (taken.classifiers[0].session.ep, taken.classifiers[0].session.threads) == ("cpu", 3)


def without_golden_inputs(path: Path) -> bytes:
    return with_metadata(other_model(path), {GOLDEN_KEY: None}, "the file")


@pytest.mark.parametrize("allow_drift", [False, True])
def test_a_model_without_golden_inputs_does_not_replace_one_that_has_them(
    allow_drift: bool,
    model: Path,
    session: ModelSession,
    taken: Taken,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model.write_bytes(without_golden_inputs(tmp_path / "new.onnx"))
    with ModelReloader(session, taken, allow_drift=allow_drift) as reloader:
        assert ask(reloader) == {"refused": 1}
    assert "has no golden inputs, but the model in use has" in lines(caplog)[0]


def test_a_model_without_golden_inputs_replaces_one_that_has_none_either(
    taken: Taken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(tmp_path / "plain.onnx")
    with ModelReloader(open_session(model, ep="cpu", threads=1), taken) as reloader:
        model.write_bytes(without_golden_inputs(tmp_path / "new.onnx"))
        assert ask(reloader) == {"taken": 1}


def test_only_the_file_with_the_configured_sha256_is_loaded(
    model: Path, session: ModelSession, taken: Taken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = tmp_path / "new.onnx"
    other_model(new)
    refusal = f"has the SHA-256 {sha256(new)}, not that of `model_sha256`"
    with (
        ModelReloader(session, taken, trust=Trust(sha256=session.sha256)) as reloader,
        pytest.raises(ModelError, match=refusal),
    ):
        reloader.switch(new)
    with ModelReloader(session, taken, trust=Trust(sha256=sha256(new))) as reloader:
        assert reloader.switch(new) == "taken"
