"""File names that are not UTF-8 are escaped in reports, in the same way everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from twincar_edge.datasets import open_dataset
from twincar_edge.errors import InputError
from twincar_edge.files import as_text, check_name, check_utf8, make_folder, write_text
from twincar_edge.manifest import read_manifest
from twincar_edge.model_file import read_model_file
from twincar_edge.records import Record
from twincar_edge.runtime.enroll import read_class_folders
from twincar_edge.synthetic import write_gate_clip
from twincar_edge.training.recipe_files import read_recipe
from twincar_edge.training.run_folder import RunFolder

STRANGE = os.fsdecode(b"caf\xe9.onnx")
ESCAPED = r"caf\udce9.onnx"


class Report(Record):
    """A report that names files."""

    path: Path
    names: tuple[str, ...]
    share: float


@pytest.mark.parametrize("indent", [None, 2])
def test_a_report_as_json_escapes_a_name_that_is_not_utf8(indent: int | None) -> None:
    report = Report(path=Path("folder", STRANGE), names=("café", STRANGE), share=0.5)
    text = report.model_dump_json(indent=indent)
    assert json.loads(text) == {"path": f"folder/{ESCAPED}", "names": ["café", ESCAPED], "share": 0.5}
    text.encode("utf-8")
    assert Report.model_validate_json(report.model_dump_json(indent=indent, exclude={"path"})[:-1] + ', "path": "x"}')


def test_a_text_file_escapes_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "report.csv", f"café,{STRANGE}\n")
    assert (tmp_path / "report.csv").read_text("utf-8") == f"café,{ESCAPED}\n"
    assert as_text(STRANGE) == ESCAPED


def test_a_data_set_in_a_folder_with_such_a_name_has_an_escaped_one(tmp_path: Path) -> None:
    for label in ("a", "b"):
        folder = tmp_path / os.fsdecode(b"caf\xe9") / label
        folder.mkdir(parents=True)
        (folder / "1.png").touch()
    dataset = open_dataset(tmp_path / os.fsdecode(b"caf\xe9"))
    assert (dataset.name, dataset.record().name) == (r"caf\udce9", r"caf\udce9")


def test_a_path_that_a_library_does_not_accept_is_refused_by_name(tmp_path: Path) -> None:
    check_utf8(tmp_path / "café.mp4", "cannot read the video")
    with pytest.raises(InputError, match=r"^cannot read the video: its name is not UTF-8: rename it$"):
        check_utf8(tmp_path / STRANGE, "cannot read the video")


OPENING = """
import os, sys
from collections.abc import Callable
from pathlib import Path
from twincar_edge.benchmarks.paced import Clip
from twincar_edge.errors import InputError
from twincar_edge.runtime.enroll import read_class_folders
from twincar_edge.synthetic import write_gate_clip
from twincar_edge.training.recipe_files import read_recipe
from twincar_edge.training.run_folder import RunFolder
from twincar_edge.videos import open_writer

folder = Path(sys.argv[1])
for use in (
    lambda: Clip(folder / "clip.mp4"),
    lambda: open_writer(folder / "annotated.mp4", 25.0, (64, 48)),
    lambda: write_gate_clip(folder / "gate.mp4", [0], 0, (160, 96), 5.0),
):
    try:
        use()
    except InputError as error:
        print(error)
"""


def test_a_video_in_a_folder_that_opencv_does_not_accept_is_one_line_and_not_a_crash(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", OPENING, str(folder)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.partition(str(tmp_path))[0] for line in lines] == [
        "cannot read the video ", "cannot write into ", "cannot write into ",
    ]  # fmt: skip
    assert all(line.endswith(": its name is not UTF-8: rename it") for line in lines)
    assert not list(folder.iterdir())


def test_a_video_may_have_a_name_that_opencv_does_not_accept(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    write_gate_clip(path, [0], 0, (160, 96), 5.0)
    assert path.stat().st_size


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_is_an_input_error(name: str, tmp_path: Path) -> None:
    check_name(tmp_path / STRANGE)
    uses: tuple[Callable[[Path], object], ...] = (
        read_manifest, read_model_file, make_folder, lambda path: write_text(path, ""), read_class_folders,
        lambda path: read_recipe(f"{path}.toml"), lambda path: RunFolder(path).read_record(),
        lambda path: RunFolder(path).prepare(),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(InputError, match="invalid file name") as caught:
            use(tmp_path / name)
        assert str(caught.value).isprintable()
