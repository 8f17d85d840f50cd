"""The examples of public docstrings and of the documentation run in one folder."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import pytest
import torch

import twincar_edge
from tests import REPOSITORY
from tests.test_docs import PAGES, fences

# `train` and `export` come first: other examples need their files.
NAMES = sorted(set(twincar_edge.__all__) - {"__version__"}, key=lambda name: (name != "train", name != "export", name))


def documented(name: str) -> Any:
    value = getattr(twincar_edge, name)
    return inspect.unwrap(value) if callable(value) else value


def test_the_examples_of_all_public_names_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names: dict[str, Any] = {"tw": twincar_edge, "Path": Path, "cv2": cv2}
    report: list[str] = []
    for name in NAMES:
        value = documented(name)
        file = inspect.getsourcefile(value)
        example = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", names, name, file, 0)
        assert example.examples, f"{name} has no example"
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append, clear_globs=False)
        names |= example.globs
    assert "".join(report) == ""


class Results:
    """A fake of the results of ultralytics for one image."""

    masks = obb = None

    def __init__(self) -> None:
        self.names = {2: "car", 7: "truck"}
        self.boxes = SimpleNamespace(
            xyxy=torch.tensor([[60.0, 40.0, 460.0, 360.0], [10.0, 10.0, 200.0, 200.0]]),
            conf=torch.tensor([0.9, 0.4]),
            cls=torch.tensor([2.0, 7.0]),
            id=None,
        )


class DataFrame:
    """A fake of the class of pandas: accepts rows with the same columns."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        assert rows and all(row.keys() == rows[0].keys() for row in rows)
        assert all(isinstance(key, str) for key in rows[0])


class Detections:
    """A fake of the class of supervision, used if that is not installed."""

    def __init__(self, xyxy: Any, confidence: Any) -> None:
        self.xyxy, self.confidence, self.data = xyxy, confidence, dict[str, Any]()

    @classmethod
    def from_ultralytics(cls, result: Results) -> Detections:
        return cls(result.boxes.xyxy.numpy(), result.boxes.conf.numpy())

    def __getitem__(self, kept: Any) -> Detections:
        return Detections(self.xyxy[kept], self.confidence[kept])


def install_fake(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.filterwarnings("default")  # warnings of other libraries
def test_the_code_of_the_python_page_runs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    install_fake(monkeypatch, "ultralytics", YOLO=lambda _name: lambda _image, classes: [Results()])
    if importlib.util.find_spec("supervision") is None:
        install_fake(monkeypatch, "supervision", Detections=Detections)
    blocks = fences(REPOSITORY / "docs" / "python.md", "python")
    assert len(blocks) > 10
    names: dict[str, Any] = {}
    for block in blocks:
        with monkeypatch.context() as only_here:  # scikit-learn looks for pandas too
            if "pandas" in block:
                install_fake(only_here, "pandas", DataFrame=DataFrame)
            exec(block.replace("rtsp://camera/stream", "gate.mp4"), names)
    assert len(names["detections"].data["car"]) == 1
    assert len({p.name for p in names["same"]}) == 1
    assert names["ends"] and names["events"].summary is not None
    assert names["report"].rows[0].status == "ok"


def signed_request() -> dict[str, Any]:
    """Return the variables of the example of a webhook receiver: a secret and a request signed with it."""
    webhook = pytest.importorskip("standardwebhooks").Webhook(secret := "whsec_" + "c2VjcmV0" * 4)
    now, body = datetime.now(UTC), '{"type":"end"}'
    headers = {"webhook-id": "1", "webhook-timestamp": str(int(now.timestamp()))}
    return {"secret": secret, "body": body, "headers": headers | {"webhook-signature": webhook.sign("1", now, body)}}


TESTED_ELSEWHERE = {"python.md", "score.md"}
OTHER_PAGES = [page for page in PAGES if fences(page, "python") and page.name not in TESTED_ELSEWHERE]


@pytest.mark.parametrize("page", OTHER_PAGES, ids=[page.relative_to(REPOSITORY).as_posix() for page in OTHER_PAGES])
def test_the_code_of_other_pages_runs(page: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names = signed_request() if page.name == "sinks.md" else {}
    for block in fences(page, "python"):
        exec(block.replace("rtsp://camera/stream", "gate.mp4"), names)
