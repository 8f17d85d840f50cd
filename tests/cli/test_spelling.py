"""Messages name the options of the command on the command line, and keys in runs from a configuration file."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.support.tiny_model import tiny_model
from twincar_edge import cli
from twincar_edge.cli.spelling import option_spelling
from twincar_edge.errors import InputError, Parameter
from twincar_edge.runtime.configuration.config_file import key_spelling
from twincar_edge.runtime.storage.state import StateFolder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the command line here: exit code and standard error."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "parameter", "text"),
    [
        ("watch", Parameter("state"), "--state PATH"),
        ("watch", Parameter("zones"), '--zone "X,Y X,Y X,Y"'),
        ("watch", Parameter("locate", "whole"), "--locate whole"),
        ("watch", Parameter("threads"), "--threads N"),
        ("watch", Parameter("allow_drift", True), "--allow-drift"),
        ("bench", Parameter("batches", (1, 8)), "--batch 1,8"),
        ("bench", Parameter("spinning", False), "--no-spinning"),
        ("export", Parameter("int8"), "--int8"),
        ("export", Parameter("int8", None), "no --int8"),
        ("export", Parameter("data"), "--data DATA"),
        ("train", Parameter("data"), "DATA"),
        ("train", Parameter("overwrite", True), "--overwrite"),
        ("train", Parameter("weights_file", "a.pth"), "--weights a.pth"),
        ("train", Parameter("batch_size", 32), "--set batch_size=32"),
        ("train", Parameter("train_size"), "--set train_size=VALUE"),
        ("train", Parameter("distillation.hints", 0), "--set distillation.hints=0"),
        ("train", Parameter("teacher"), "--teacher FILE"),
        ("train", Parameter("allow_drift", True), "`allow_drift=True`"),
        ("inspect", Parameter("ep", "cpu"), "`ep='cpu'`"),
    ],
)
def test_a_parameter_is_written_as_the_option_that_sets_it(command: str, parameter: Parameter, text: str) -> None:
    found = importlib.import_module(f"twincar_edge.cli.{command}").command
    assert option_spelling(found, parameter) == text


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        (Parameter("state"), "`state`"),
        (Parameter("ep", "cpu"), '`ep = "cpu"`'),
        (Parameter("allow_drift", True), "`allow_drift = true`"),
        (Parameter("state", Path("a")), '`state = "a"`'),
        (Parameter("detector", None), "no `detector`"),
    ],
)
def test_a_parameter_is_written_as_the_key_that_sets_it(parameter: Parameter, text: str) -> None:
    assert key_spelling(parameter) == text


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.onnx")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def test_errors_of_a_command_name_its_own_options(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watching = ("watch", pictures, "--model", model, "--ep", "cpu", "--state", tmp_path / "state")
    code, error = run(capsys, *watching, "--locate", "zone")
    assert code == 2
    assert error.endswith('error: --locate zone needs a polygon: set --zone "X,Y X,Y X,Y"\n')
    with StateFolder(tmp_path / "state"):
        code, error = run(capsys, *watching)
    assert code == 2
    assert error.endswith("or choose another folder with --state PATH\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("watch a.mp4 --save-crops a --crops-limit b", "--crops-limit SIZE: invalid size 'b': use bytes"),
        ("watch a.mp4 --save-clips a --clips-age b", "--clips-age TIME: invalid duration 'b': use a number"),
        ("watch a.mp4 --store-limit b", "--store-limit SIZE: invalid size 'b': use bytes"),
        ("watch a.mp4 --monitor b", "--monitor HOST:PORT: invalid address 'b': use HOST:PORT"),
        ("watch a.mp4 --page b:99999", "--page [HOST:PORT]: invalid address 'b:99999': use HOST:PORT"),
        ("watch a.mp4 --name a/b", "--name: use up to 64 ASCII letters"),
        ("watch a.mp4 --poll b", "--poll TIME: invalid duration 'b'"),
        ("page b:99999", "HOST:PORT: invalid address 'b:99999'"),
        ("page --host a_b", "--host NAME: use a host name alone"),
        ("export a.pt -o b --false-accept 7", "--false-accept SHARE: Input should be less than or equal to 1"),
        ("export a.pt -o b --keep-known 1 1 2", "--keep-known FULL MODEL MAKE: Input should be less than"),
        ("export a.pt -o b --int8 --percentile 101", "invalid INT8 settings: --percentile PERCENT: Input should be"),
    ],
)
def test_an_invalid_value_is_named_by_its_option(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = run(capsys, *arguments.split())
    assert code == 2
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_errors_of_a_nested_command_name_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = run(capsys, "events", "resend", "--state", tmp_path)
    assert (code, error) == (2, f"error: no spool in {tmp_path}/spool: choose another state folder with --state PATH\n")


def test_errors_of_a_run_from_a_file_name_its_keys(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "cameras.toml"
    config.write_text(
        f'model = "{model}"\nep = "cpu"\nstate = "state"\n[[cameras]]\nsource = "{pictures}"\nlocate = "zone"\n'
    )
    code, error = run(capsys, "watch", "--config", config)
    assert code == 2
    assert error.splitlines()[-1] == 'error: `locate = "zone"` needs a polygon: set `zones`'


def test_reports_of_a_command_name_its_options_too(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twincar_edge.runtime.selftest.doctor.usable_cores", lambda: 1)
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--model", str(model), "--ep", "cpu", "--threads", "2"])
    assert "--threads 1" in capsys.readouterr().out


def test_after_a_command_errors_are_spelled_as_in_python_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "inspect", "nothing.onnx")[0] == 2
    assert str(InputError(Parameter("ep"))) == "`ep`"
