"""`twincar-edge score` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.score_toys import pictures
from tests.support.tiny_model import tiny_model
from twincar_edge.cli import group


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(group, ["score", *map(str, arguments)], catch_exceptions=False)


def test_a_run_ends_with_a_summary(model: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cars", 3)
    (folder / "bad.png").write_bytes(b"no image")
    arguments = (folder, "-o", tmp_path / "out", "--model", model, "--workers", 1)
    result = invoke(*arguments)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:4] == [
        f"wrote {tmp_path / 'out'}: 4 rows in 1 partition",
        "1 could not be read",
        "by level: year 3",
        "by make: Castor 2, Pollux 1",
    ]
    report = json.loads(invoke(*arguments, "--resume", "--json").stdout)
    assert (report["rows"], report["errors"], report["resumed"], report["makes"]) == (
        4,
        1,
        1,
        {"Castor": 2, "Pollux": 1},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing",), "error: cannot read missing: No such file or directory"),
        (("cars", "--model", "none.onnx"), "none.onnx"),
        (("cars", "--embedding"), "has no embedding output: export it again"),
        (("cars", "-o", "taken"), "continue it with --resume, or name another output"),
        (("cars", "-o", "list.csv"), "is a file: name a folder"),
        (("cars", "-o", "cars/names"), "cars/names is inside cars and would be scored too"),
        (("cars/**", "-o", "cars/names"), "cars/names is inside cars/** and would be scored too"),
        (("*/**/*.parquet", "-o", "cars/names"), "would be scored too"),
        (("s3://archive", "-o", "s3://archive/names?region=x"), "is inside s3://archive"),
    ],
)
def test_invalid_arguments_are_one_line_and_exit_code_2(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "cars", 1)
    (tmp_path / "list.csv").write_text("path\n")
    if "taken" in arguments:
        invoke("cars", "-o", "taken", "--model", model, "--workers", 1)
    defaults = {"-o": "out", "--model": model, "--workers": 1}
    added = [part for option, value in defaults.items() if option not in arguments for part in (option, value)]
    result = invoke(*arguments, *added)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line
