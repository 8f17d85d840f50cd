"""The events of `watch` go only to the configured sinks, and the run lists them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.tiny_model import RED, tiny_model
from twincar_edge.cli.watch_options import watch_config
from twincar_edge.runtime.sinks.settings import SinkSettings, StdoutSettings, StoreSettings, TableSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip of one red car, and a model that knows it."""
    write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 10)], 60))
    tiny_model(tmp_path / "model.onnx")
    return tmp_path


def configured(folder: Path, sinks: str, source: str = "gate.mp4") -> Path:
    path = folder / "cameras.toml"
    path.write_text(f'model = "model.onnx"\nduration_s = 20\n[[cameras]]\nsource = "{source}"\n{sinks}', "utf-8")
    return path


def watch(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "twincar_edge", "watch", *map(str, arguments)],
        capture_output=True, text=True, check=True, cwd=folder, env=os.environ | {"TWINCAR_STATE": f"{folder}/state"},
    )  # fmt: skip


def test_a_configured_run_writes_only_to_the_sinks_of_its_file(folder: Path) -> None:
    done = watch(folder, "--config", configured(folder, '[[sinks]]\nkind = "jsonl"\npath = "events.jsonl"\n'))
    assert done.stdout == ""
    assert [json.loads(line)["name"] for line in (folder / "events.jsonl").read_text("utf-8").splitlines()] == [RED]
    assert not (folder / "state" / "events.sqlite").exists()
    assert f"events went to: jsonl {folder}/events.jsonl\n" in done.stderr


def test_the_file_can_name_standard_output_as_a_sink(folder: Path) -> None:
    sinks = '[[sinks]]\nkind = "stdout"\ntypes = ["start"]\n[[sinks]]\nkind = "store"\n'
    done = watch(folder, "--config", configured(folder, sinks))
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["start"]
    assert f"events went to: stdout, store {folder}/state/events.sqlite\n" in done.stderr


def test_a_file_without_sinks_writes_only_to_standard_output(folder: Path) -> None:
    done = watch(folder, "--config", configured(folder, ""))
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == [RED]
    assert "events went to: stdout\n" in done.stderr
    assert not (folder / "state").exists()


def sinks_at_a_terminal(config: Path) -> tuple[SinkSettings, ...]:
    from twincar_edge.cli.watch import command

    context = command.make_context("watch", ["--config", str(config)])
    options = {name: value for name, value in context.params.items() if name not in ("source", "config_file")}
    with context:
        return watch_config(None, config, options, terminal=True).sinks


def test_a_terminal_shows_a_table_if_the_file_names_standard_output(folder: Path) -> None:
    sinks = '[[sinks]]\nkind = "store"\n[[sinks]]\nkind = "stdout"\nname = "screen"\n'
    config = configured(folder, sinks)
    assert sinks_at_a_terminal(config) == (StoreSettings(), TableSettings(title=str(config), name="screen"))
    assert sinks_at_a_terminal(configured(folder, '[[sinks]]\nkind = "store"\n')) == (StoreSettings(),)
    assert StdoutSettings().types == TableSettings().types


def test_the_first_line_of_the_log_lists_the_sinks_without_secrets(folder: Path) -> None:
    sinks = (
        '[[sinks]]\nkind = "webhook"\nurl = "http://user:s3cret@127.0.0.1:9/hook/t0ken?key=k3y"\n'
        '[[sinks]]\nkind = "crops"\npath = "crops"\n'
    )
    (folder / "inbox").mkdir()
    config = configured(folder, sinks, "inbox").read_text("utf-8").replace("duration_s = 20", "duration_s = 1")
    (folder / "cameras.toml").write_text(config, "utf-8")
    done = watch(folder, "--config", "cameras.toml")
    first, *_rest = done.stderr.splitlines()
    assert "events go to: webhook http://127.0.0.1:9#" in first
    assert first.endswith(f", crops {folder}/crops")
    assert not any(secret in done.stderr for secret in ("s3cret", "t0ken", "k3y"))
