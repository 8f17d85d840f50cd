"""Clustering: groups in order of size, a folder of pictures for each, and a contact sheet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_model import tiny_model
from twincar_edge.cli import main
from twincar_edge.draw import Cell, contact_sheet
from twincar_edge.errors import InputError, MissingExtraError, ModelError
from twincar_edge.images import read_image, write_image
from twincar_edge.runtime.cluster import ClusterConfig, cluster
from twincar_edge.runtime.enroll import read_class_folders


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model.onnx", golden=True, familiar=True)


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Seven yellow, five green and one blue picture in nested folders, and a broken file."""
    folder = tmp_path / "hard"
    for number in range(13):
        color = (0, 200, 200) if number < 7 else (0, 200, 100) if number < 12 else (200, 0, 0)
        shade = np.clip(np.array(color) + rng.integers(0, 9, 3), 0, 255).astype(np.uint8)
        write_image(folder / ("A" if number % 2 else "B/C") / f"{number}.png", np.full((30, 40, 3), shade, np.uint8))
    (folder / "A" / "broken.jpg").write_bytes(b"no picture")
    return folder


def test_similar_pictures_share_a_folder_and_a_renamed_folder_can_be_enrolled(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "groups"
    report = cluster(ClusterConfig(pictures, output, model, ep="cpu"))
    assert (report.sizes, report.unsorted, report.unreadable) == ((7, 5), 1, 1)
    found = {
        folder.name: sorted(int(path.stem[5:]) for path in folder.iterdir())
        for folder in output.iterdir()
        if folder.is_dir()
    }
    assert found == {"cluster-001": [*range(7)], "cluster-002": [*range(7, 12)], "unsorted": [12]}
    assert read_image(output / "clusters.jpg").shape[0] > 300
    assert len(list(pictures.rglob("*.png"))) == 13  # copied, not moved
    with pytest.raises(InputError, match="no subfolder named after a class"):
        read_class_folders(output)
    (output / "cluster-002").rename(output / "Rigel Green Sedan 2024")
    assert [(name, len(paths)) for name, paths in read_class_folders(output).items()] == [("Rigel Green Sedan 2024", 5)]


def test_the_contact_sheet_keeps_no_picture_in_its_original_size(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Cell] = []

    def draw(cells: Sequence[Cell], *options: Any) -> NDArray[np.uint8]:
        kept.extend(cells)
        return contact_sheet(cells, *options)

    monkeypatch.setattr("twincar_edge.runtime.cluster.contact_sheet", draw)
    cluster(ClusterConfig(pictures, tmp_path / "groups", model, ep="cpu"))
    assert {cell.image_bgr.shape for cell in kept if cell.image_bgr is not None} == {(100, 133, 3)}


def test_invalid_input_is_a_one_line_error_and_writes_nothing(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "empty", "hold no images"), (tmp_path / "missing", "not a folder")):
        with pytest.raises(InputError, match=message):
            cluster(ClusterConfig(folder, tmp_path / "groups", model))
    with pytest.raises(InputError, match="13 readable images, fewer than a group of 14"):
        cluster(ClusterConfig(pictures, tmp_path / "groups", model, smallest=14))
    with pytest.raises(ModelError, match="no embedding output"):
        cluster(ClusterConfig(pictures, tmp_path / "groups", tiny_model(tmp_path / "old.onnx")))
    with pytest.raises(SystemExit) as ended:
        main(["cluster", str(pictures), "-o", str(tmp_path)])
    assert ended.value.code == 2
    assert "already exists: name a new folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.cluster", raising=False)
    with pytest.raises(MissingExtraError, match=r"twincar-edge\[cluster\]"):
        cluster(ClusterConfig(pictures, tmp_path / "groups", model))
    assert not (tmp_path / "groups").exists()
