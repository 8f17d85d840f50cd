"""A result never replaces a file that it is made from, and a data set or clip no other file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_model import tiny_model
from twincar_edge.cli import main
from twincar_edge.images import write_image
from twincar_edge.runtime.sinks.store import EventStore

PHOTO = "cars/images/000001.jpg"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the command line here: exit code and standard error."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_image(folder / PHOTO, np.zeros((48, 64, 3), np.uint8))
    (folder / "cars" / "labels.csv").write_text("filename,label\n000001.jpg,0\n")
    (folder / "cars" / "class_mapping.json").write_text('{"0": "A"}')
    (folder / "gate.mp4").write_text("a clip")
    (folder / "link.jpg").symlink_to("cars/images/000001.jpg")
    (folder / "key.pem").write_text("a key")
    (folder / "report.json").write_text("{}")
    tiny_model(folder / "tiny.onnx")
    with EventStore(folder / "store.db"):
        pass
    return folder


@pytest.mark.parametrize(
    ("arguments", "replaced", "option"),
    [
        (f"zones {PHOTO} -o {PHOTO}", PHOTO, "--output PATH"),
        (f"zones cars/images -o {PHOTO}", PHOTO, "--output PATH"),
        (f"zones {PHOTO} -o link.jpg", PHOTO, "--output PATH"),
        (f"explain {PHOTO} -o {PHOTO}", PHOTO, "--output PATH"),
        ("sign tiny.onnx --key key.pem -o key.pem", "key.pem", "--output FILE"),
        (f"enroll tiny.onnx {PHOTO} --class A -o {PHOTO}", PHOTO, "--output PATH"),
        ("evaluate tiny.onnx --data cars/labels.csv --json cars/labels.csv", "cars/labels.csv", "--json PATH"),
        ("evaluate tiny.onnx --data cars --json cars/labels.csv", "cars/labels.csv", "--json PATH"),
        ("bench tiny.onnx --data cars -o cars/class_mapping.json", "cars/class_mapping.json", "--output PATH"),
        ("evaluate tiny.onnx --data cars --json tiny.onnx", "tiny.onnx", "--json PATH"),
        ("bench tiny.onnx --data report.json -o report.json", "report.json", "--output PATH"),
        ("events --store store.db export --csv store.db", "store.db", "--csv FILE"),
        (f"classify {PHOTO} --csv {PHOTO}", PHOTO, "--csv FILE"),
        (f"classify cars/images --csv {PHOTO}", PHOTO, "--csv FILE"),
        (f"classify {PHOTO} --annotate cars/images", PHOTO, "--annotate DIR"),
    ],
)
def test_an_input_is_never_overwritten(
    arguments: str,
    replaced: str,
    option: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    before = (folder / replaced).read_bytes()
    code, error = run(capsys, *arguments.split())
    assert (code, error) == (2, f"error: {replaced} is an input, and would be overwritten: choose another {option}\n")
    assert (folder / replaced).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "exists"),
    [("images cars --per-class 1", "cars"), ("clip new.mp4", "new.json"), ("clip gate.mp4", "gate.mp4")],
)
def test_drawn_cars_replace_no_file_without_overwrite(
    arguments: str, exists: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "new.json").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, error = run(capsys, "synthesize", *arguments.split())
    assert (code, error) == (2, f"error: {exists} exists: choose another name, or replace it with --overwrite\n")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_drawn_cars_replace_earlier_ones_with_overwrite(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr("twincar_edge.synthetic.write_image_folder", lambda to, **_: drawn.append(to))
    (folder / "empty").mkdir()
    assert run(capsys, "synthesize", "images", folder / "empty")[0] == 0
    assert run(capsys, "synthesize", "images", folder / "cars", "--overwrite")[0] == 0
    assert drawn == [folder / "empty", folder / "cars"]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("events --store store.db export --csv /dev/stdout", "--csv -"),
        ("evaluate tiny.onnx --data cars --json /dev/stdout", "--json -"),
        (f"classify {PHOTO} --csv /dev/stdout", "--csv -"),
    ],
)
def test_standard_output_is_a_dash(
    arguments: str, option: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run(capsys, *arguments.split()) == (2, f"error: cannot write /dev/stdout: use {option}\n")
