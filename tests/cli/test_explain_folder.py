"""`explain` over a folder: one picture per image, and memory that does not grow with the folder."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import BLUE_BGR, RED_BGR
from tests.support.tiny_model import RED, tiny_model
from twincar_edge import cli
from twincar_edge.cli import explain


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def run(model: Path, output: Path, *images: Path | str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", *map(str, images), "--model", str(model), "--method", "occlusion", "-o", str(output)])
    assert ended.value.code == code


def pictures(folder: Path, *names: str, size_wh: tuple[int, int] = (60, 40)) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.full((size_wh[1], size_wh[0], 3), RED_BGR, np.uint8))
    return folder


def test_memory_does_not_grow_with_the_number_of_images(model: Path, tmp_path: Path) -> None:
    peaks = []
    run(model, tmp_path / "warm", pictures(tmp_path / "one", "0.png"))  # imports
    for images in (2, 8):
        names = [f"{number}.png" for number in range(images)]
        folder = pictures(tmp_path / str(images), *names, size_wh=(1280, 960))
        tracemalloc.start()
        run(model, tmp_path / f"why-{images}", folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_images_with_the_same_name_have_pictures_of_their_own(model: Path, tmp_path: Path) -> None:
    folders = [pictures(tmp_path / str(number), name) for number, name in enumerate(["a.png", "a.jpg", "a-1.png"])]
    run(model, tmp_path / "why", *folders)
    assert sorted(path.name for path in (tmp_path / "why").glob("*.png")) == ["a-1.png", "a-2.png", "a-3.png"]


def test_the_contact_sheet_has_at_most_its_limit_of_images(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "MAX_CELLS", 4)
    run(model, tmp_path / "why", pictures(tmp_path / "images", *(f"{number}.png" for number in range(6))))
    assert len(list((tmp_path / "why").glob("*.png"))) == 6
    sheet = cv2.imread(str(tmp_path / "why" / explain.SHEET))
    assert sheet is not None and sheet.shape[0] < 400  # one row


def test_unreadable_images_are_skipped_unless_there_are_no_others(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "images", "0.png", "2.png")
    (folder / "1.png").write_text("no image")
    run(model, tmp_path / "why", folder)
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["0.png", "2.png", "sheet.jpg"]
    assert f"skipped: {folder / '1.png'} is not a" in capsys.readouterr().err
    run(model, tmp_path / "none", folder / "1.png", folder / "3.png", code=2)
    assert capsys.readouterr().err.endswith("error: no image can be explained\n")
    assert not (tmp_path / "none").exists()


def test_images_without_such_an_explanation_are_skipped(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "images", "0.png", "3.png")
    cv2.imwrite(str(folder / "1.png"), np.full((40, 60, 3), 114, np.uint8))  # the gray of the occluding patch
    run(model, tmp_path / "why", folder)
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["0.png", "3.png", "sheet.jpg"]
    assert f"skipped: {folder / '1.png'}: occlusion finds no evidence for " in capsys.readouterr().err
    cv2.imwrite(str(folder / "2.png"), np.full((40, 60, 3), BLUE_BGR, np.uint8))
    run(model, tmp_path / "against", folder, "--against", RED)
    assert (tmp_path / "against" / "2.png").exists()
    assert f"skipped: {folder / '0.png'}: --against CLASS|auto is the target class" in capsys.readouterr().err


@pytest.mark.parametrize("clash", ["photos/0.png", "photos/0.overlay.png", "photos/sheet.jpg", "0.png"])
def test_images_to_explain_are_never_overwritten(
    model: Path, tmp_path: Path, clash: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / clash if clash == "0.png" else tmp_path / "photos"
    pictures(tmp_path / "photos", "0.jpg", "1.jpg")
    (tmp_path / "photos" / "0.jpg").rename(tmp_path / clash)
    images = [tmp_path / clash] if clash == "0.png" else [tmp_path / "photos"]
    before = (tmp_path / clash).read_bytes()
    arguments = ["explain", *map(str, images), "--model", str(model), "--method", "occlusion", "--parts"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "-o", str(output)])
    assert ended.value.code == 2
    assert (tmp_path / clash).read_bytes() == before
    assert "is an input, and would be overwritten: choose another --output" in capsys.readouterr().err
