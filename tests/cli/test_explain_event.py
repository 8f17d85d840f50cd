"""`explain --event` explains the answer to a stored visit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import RED_BGR
from tests.support.event_toys import visit
from tests.support.tiny_model import RED, tiny_model
from twincar_edge import cli
from twincar_edge.files import sha256
from twincar_edge.runtime.sinks.store import EventStore


@dataclass
class Box:
    """A model, a store with two visits whose ids share a prefix, and the folder of the pictures."""

    model: Path
    store: Path
    crops: Path


@pytest.fixture
def box(tmp_path: Path) -> Box:
    model, crops = tiny_model(tmp_path / "tiny.onnx"), tmp_path / "crops"
    crops.mkdir()
    cv2.imwrite(str(crops / "car.jpg"), np.full((40, 60, 3), RED_BGR, np.uint8))
    answered = visit().classifier.model_copy(update={"sha256": sha256(model)})
    kept = visit(id="abc-1", crop="car.jpg", classifier=answered)
    with EventStore(tmp_path / "events.sqlite", crops=crops) as store:
        store.write(kept, np.zeros((4, 4, 3), np.uint8))
        store.write(visit(id="abd-2", classifier=answered), np.zeros((4, 4, 3), np.uint8))
    return Box(model, tmp_path / "events.sqlite", crops)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["explain", *map(str, arguments)])
    printed = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, printed.out, printed.err


def test_a_stored_visit_is_explained_by_a_prefix_of_its_id(
    box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "why.png"
    arguments = ("--event", "abc", "--store", box.store, "--model", box.model, "--method", "occlusion", "-o", picture)
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == RED
    assert cv2.imread(str(picture)) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("another model", "was classified by another file of"),
        ("no picture", "visit abd-2 has no picture: `watch --save-crops FOLDER` saves them"),
        ("picture removed", "car.jpg was removed"),
        ("no such visit", "no visit with an id that starts with 'x'"),
        ("two visits", "ambiguous id 'ab': it matches abc-1, abd-2"),
        ("an image too", "give images, or one --event"),
    ],
)
def test_a_visit_that_cannot_be_explained_says_why(
    box: Box, tmp_path: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begins, model, images = "abc", box.model, ()
    if change == "another model":
        model = tiny_model(tmp_path / "other.onnx", reject_below=0.4)
    elif change == "no picture":
        begins = "abd"
    elif change == "picture removed":
        (box.crops / "car.jpg").unlink()
    elif change == "no such visit":
        begins = "x"
    elif change == "two visits":
        begins = "ab"
    else:
        images = (box.crops / "car.jpg",)
    output = tmp_path / "why.png"
    arguments = ("--event", begins, "--store", box.store, "--model", model, "--method", "occlusion", "-o", output)
    code, out, err = run(capsys, *images, *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not output.exists()
