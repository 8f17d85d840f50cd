from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.detector_toys import fake_official_detector
from twincar_edge import cli
from twincar_edge.runtime.locating.pulled import OFFICIAL


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code, *capsys.readouterr()


@pytest.fixture
def nano(tmp_path: Path) -> Iterator[Path]:
    with fake_official_detector(tmp_path) as path:
        yield path


def test_a_detector_from_a_file_is_installed(nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    expected = state / "detectors" / "yolox_nano.onnx"
    before = f"no detector in {state}/detectors: run `twincar-edge detector pull`\n"
    assert run(capsys, "detector", "--state", state) == (0, before, "")
    assert run(capsys, "detector", "pull", "--from", nano, "--state", state) == (0, f"{expected}\n", "")
    assert run(capsys, "detector", "--state", state) == (
        0,
        f"{expected}: identical to the file of YOLOX's release 0.1.1rc0\n",
        "",
    )


def test_the_state_option_is_accepted_before_pull(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "detector", "--state", tmp_path / "state", "pull", "nano", "--from", nano)[0] == 0
    assert (tmp_path / "state" / "detectors" / "yolox_nano.onnx").read_bytes() == nano.read_bytes()


def test_a_file_of_another_detector_is_rejected_with_the_option_to_use_it(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nano.write_bytes(nano.read_bytes() + b"?")
    code, out, err = run(capsys, "detector", "pull", "--from", nano, "--state", tmp_path / "state")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: refused {nano}: its SHA-256 (")
    assert err.endswith("use your own detector with --detector PATH\n")
    assert len(err.splitlines()) == 1


def test_without_a_network_one_line_names_the_option_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a closed port of this machine
    code, out, err = run(capsys, "detector", "pull", "tiny", "--state", tmp_path / "state")
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first == f"downloading {OFFICIAL['tiny'].url} (20.2 MB)"
    assert second.startswith("error: cannot download https://github.com/")
    assert second.endswith("Connection refused; download it on another machine, and give the file with --from PATH")
