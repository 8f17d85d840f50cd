"""A checkpoint on the Hub is downloaded once, with its class names. Any failure is a one-line error without secrets."""

from __future__ import annotations

import errno
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from torch import nn
from torchvision.models import resnet50

from tests.support.fake_hub import COMMIT, PROXIES, FakeHub, serving
from tests.support.training_toys import TINY
from twincar_edge import cli
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.checkpoint import read_checkpoint, write_checkpoint, write_safetensors
from twincar_edge.training.hub import HubFile, parse_reference, resolve_checkpoint
from twincar_edge.training.model import CarClassifier

NAMES = ClassMapping(("Alpha Sedan 2010", "Beta Coupé 2011", "Gamma SUV 2012"))
TOKEN = "hf_averysecrettokenthatnobodymaysee"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as server:
        server.point(monkeypatch, tmp_path / "cache")
        yield server


def tiny_checkpoint(folder: Path, name: str = "m.safetensors") -> bytes:
    write = write_safetensors if name.endswith(".safetensors") else write_checkpoint
    preprocess = Preprocess(size_wh=(64, 64))
    state_dict = CarClassifier(TINY, 3, preprocess).backbone.state_dict()
    write(folder / name, architecture=TINY, state_dict=state_dict, classes=NAMES, preprocess=preprocess, recipe={})
    return (folder / name).read_bytes()


def original_checkpoint(classes: int) -> bytes:
    """Return the published file of the original TwinCar: the state dict of its quickstart's model."""
    model = resnet50(weights=None)
    model.fc = nn.Sequential(nn.Linear(2048, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, classes))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.getvalue()


def downloads(hub: FakeHub) -> list[str]:
    return [request for request in hub.requests if request.startswith("GET")]


def write_car(path: Path) -> Path:
    assert cv2.imwrite(str(path), np.random.default_rng(4).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("hf://o/r/m.pth", HubFile("o/r", "m.pth")),
        (
            "hf://kikogazda/TwinCar-196-v2/twin_car_best_model_v2.pth",
            HubFile("kikogazda/TwinCar-196-v2", "twin_car_best_model_v2.pth"),
        ),
        ("hf://o/r/a/b c/m.safetensors@v1.0", HubFile("o/r", "a/b c/m.safetensors", "v1.0")),
        ("hf://o/r/m.pth@refs/pr/1", HubFile("o/r", "m.pth", "refs/pr/1")),
    ],
)
def test_a_reference_round_trips(reference: str, file: HubFile) -> None:
    assert parse_reference(reference) == file
    assert str(file) == reference


@pytest.mark.parametrize(
    ("reference", "meant"),
    [
        ("hf:/o/r/m.pth", "hf://o/r/m.pth"),
        ("HF://o/r/m.pth", "hf://o/r/m.pth"),
        ("hf:o/r/m.pth", "hf://o/r/m.pth"),
        ("https://huggingface.co/o/r/resolve/main/a/m.pth", "hf://o/r/a/m.pth"),
        ("https://huggingface.co/o/r/blob/v1/m.pth?download=true", "hf://o/r/m.pth@v1"),
        ("hf://o/r@v1/m.pth", "hf://o/r/m.pth@v1"),
        ("hf://o/r/a//m.pth", "hf://o/r/a/m.pth"),
        ("hf://o/r/../m.pth", "hf://o/r/m.pth"),
        ("hf://o/r/m.pth@", "hf://o/r/m.pth"),
        ("hf://o/r/m.pth@../x", "hf://o/r/m.pth"),
    ],
)
def test_an_invalid_reference_gets_a_suggestion(reference: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(reference)
    assert str(caught.value).endswith(f"did you mean {meant!r}?")
    parse_reference(meant)


@pytest.mark.parametrize(
    "reference",
    [
        "hf://", "hf://o", "hf://o/r", "hf://o/r/", "hf:///r/m.pth", "hf://o//m.pth", "hf://../r/m.pth",
        "hf://o/../m.pth", "hf://o r/r/m.pth", "hf://o/r/..", "hf://o/r/a\\..\\m.pth", "hf://o/r/a\nb", "hf://o/r/m\0",
        "hf://o/r/m.pth@a b", "hf://o/r/m.pth@a@b", "hf://o/r/" + "m" * 2000, "s3://o/r/m.pth", "file:///m.pth",
    ],
)  # fmt: skip
def test_an_invalid_reference_makes_no_request(
    hub: FakeHub, reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["explain", "--checkpoint", reference, str(write_car(tmp_path / "car.png"))])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert hub.requests == []


def test_an_address_with_a_password_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(f"https://me:{TOKEN}@huggingface.co/o/r/resolve/main/m.pth")
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("reference", ["best.pt", "runs/a b/best.pt", "/data/o/r@v1/m.pth", "~/x.pt"])
def test_a_path_is_returned_unchanged(hub: FakeHub, reference: str) -> None:
    assert resolve_checkpoint(reference) == Path(reference)
    assert hub.requests == []


@pytest.mark.parametrize("folder", ["", "models/v2/"])
@pytest.mark.parametrize("revision", ["", "@v1", f"@{COMMIT}", "@refs/pr/1"])
def test_a_file_is_downloaded_once_with_its_class_mapping(hub: FakeHub, folder: str, revision: str) -> None:
    hub.files[f"o/r/{folder}m.pth"] = b"weights"
    hub.files[f"o/r/{folder}class_mapping.json"] = NAMES.to_json().encode()
    reference = f"hf://o/r/{folder}m.pth{revision}"
    path = resolve_checkpoint(reference)
    assert path.read_bytes() == b"weights" and path.name == "m.pth"
    assert ClassMapping.from_json(path.parent / "class_mapping.json") == NAMES
    assert len(downloads(hub)) == 2
    assert resolve_checkpoint(reference) == path
    assert len(downloads(hub)) == 2


def test_a_missing_class_mapping_is_not_an_error(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["o/r/sub/m.safetensors"] = tiny_checkpoint(tmp_path)
    hub.files["o/r/class_mapping.json"] = b"of another folder"
    path = resolve_checkpoint("hf://o/r/sub/m.safetensors")
    assert not (path.parent / "class_mapping.json").exists()
    assert read_checkpoint(path).classes == NAMES


def test_a_cached_file_needs_no_network(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["o/r/m.safetensors"] = tiny_checkpoint(tmp_path)
    path = resolve_checkpoint("hf://o/r/m.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_checkpoint("hf://o/r/m.safetensors") == path
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.answers["o/r"] = (503, {})
    assert resolve_checkpoint("hf://o/r/m.safetensors") == path
    FakeHub(url=unused_address()).point(monkeypatch, tmp_path / "cache")
    assert resolve_checkpoint("hf://o/r/m.safetensors") == path


def test_downloads_are_read_as_untrusted_files(hub: FakeHub) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, ("exit 1",)

    file = io.BytesIO()
    torch.save({"state_dict": Payload()}, file)
    hub.files["o/r/m.pth"] = file.getvalue()
    with pytest.raises(ModelError, match="holds Python objects"):
        read_checkpoint(resolve_checkpoint("hf://o/r/m.pth"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {"X-Error-Code": "RepoNotFound"}), "there is no repository o/r, or it is private: .* HF_TOKEN"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), "o/r has no revision v9"),
        ((404, {"X-Error-Code": "EntryNotFound"}), "o/r has no such file"),
        ((404, {}), "o/r has no such file"),
        ((403, {"X-Error-Code": "GatedRepo"}), "the repository is gated: .* HF_TOKEN"),
        (
            (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
            r"access denied \(HTTP 401\): set HF_TOKEN",
        ),
        ((403, {"X-Error-Message": "Forbidden\nfor you"}), r"access denied \(HTTP 403\): set HF_TOKEN"),
        ((503, {}), "the Hub returned HTTP status 503"),
        ((429, {"Retry-After": "3600"}), "the Hub returned HTTP status 429"),
        ((200, {}), "the server is not a Hugging Face Hub: check HF_ENDPOINT"),
    ],
)
def test_hub_errors_are_one_line_with_a_remedy_and_come_quickly(
    hub: FakeHub,
    answer: tuple[int, dict[str, str]],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    headers = {name: value.replace("\n", " ") for name, value in answer[1].items()}
    hub.answers["o/r"] = (answer[0], headers)
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"^cannot fetch hf://o/r/m\.pth@v9: .*{message}") as caught:
        resolve_checkpoint("hf://o/r/m.pth@v9")
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert capfd.readouterr() == ("", "")
    assert not list((tmp_path / "cache").rglob("m.pth"))


def test_an_invalid_endpoint_url_is_a_one_line_error(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("hub.example", "ftp://hub.example", "http://", f"//{TOKEN}@x", "http://[", ""):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(InputError, match=r"^cannot fetch hf://o/r/m\.pth: ") as caught:
            resolve_checkpoint("hf://o/r/m.pth")
        assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("token", [TOKEN + "\nX-Other: 1", TOKEN + "é"])
def test_an_invalid_token_is_not_in_the_error(hub: FakeHub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.files["o/r/m.pth"] = b"weights"
    try:
        path = resolve_checkpoint("hf://o/r/m.pth")
    except InputError as error:
        assert TOKEN not in str(error)
    else:  # huggingface_hub removes line breaks
        assert path.read_bytes() == b"weights"


def unused_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_missing_network_is_a_quick_one_line_error(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    FakeHub(url=unused_address()).point(monkeypatch, tmp_path / "cache")
    start = time.monotonic()
    with pytest.raises(InputError, match=r"the Hub cannot be reached \(ConnectError\): check the network"):
        resolve_checkpoint("hf://o/r/m.pth")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="not in the cache, and HF_HUB_OFFLINE is set"):
        resolve_checkpoint("hf://o/r/m.pth")
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


def test_a_failed_download_leaves_no_file(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["o/r/m.pth"] = b"weights" * 100

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.file_download, "http_get", full)
        with pytest.raises(InputError, match=r"No space left on device\): free some space, or set HF_HOME"):
            resolve_checkpoint("hf://o/r/m.pth")
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.name.endswith((".incomplete", "m.pth"))]
    assert resolve_checkpoint("hf://o/r/m.pth").read_bytes() == hub.files["o/r/m.pth"]


def test_progress_bar_settings_are_restored(hub: FakeHub) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    hub.files["o/r/m.pth"] = b"weights"
    before = are_progress_bars_disabled()
    resolve_checkpoint("hf://o/r/m.pth")
    assert are_progress_bars_disabled() == before


def test_explain_reads_the_originals_file_from_the_hub(tmp_path: Path) -> None:
    with serving() as hub:
        hub.files["kikogazda/TwinCar-196-v2/twin_car_best_model_v2.pth"] = original_checkpoint(len(NAMES))
        hub.files["kikogazda/TwinCar-196-v2/class_mapping.json"] = NAMES.to_json().encode()
        environment = {name: value for name, value in os.environ.items() if name not in (*PROXIES, "HF_HUB_OFFLINE")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
        reference = "hf://kikogazda/TwinCar-196-v2/twin_car_best_model_v2.pth"
        image, overlay = write_car(tmp_path / "car.png"), tmp_path / "overlay.png"
        done = subprocess.run(
            [sys.executable, "-m", "twincar_edge", "explain", "--checkpoint", reference, image, "-o", overlay],
            capture_output=True, text=True, env=environment,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line.split("%  ")[1] for line in done.stdout.splitlines()[1:4]) == sorted(NAMES)
    assert overlay.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one CHECKPOINT"),
        (["a.pt", "--checkpoint", "b.pt"], "give one CHECKPOINT, not 2"),
        (["a.pt", "b.pt"], "give one CHECKPOINT, not 2"),
    ],
)
def test_a_command_requires_exactly_one_checkpoint(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {"export": ["-o", str(tmp_path / "out")], "evaluate": []}
    names = {"evaluate": "MODEL"}
    for command, rest in commands.items():
        with pytest.raises(SystemExit) as caught:
            cli.main([command, *arguments, *rest])
        assert caught.value.code == 2
        assert capsys.readouterr().err.endswith(f"{message.replace('CHECKPOINT', names.get(command, 'CHECKPOINT'))}\n")
    assert list(tmp_path.iterdir()) == []


def test_export_accepts_a_reference(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.files["o/r/m.safetensors"] = tiny_checkpoint(tmp_path)
    for spelling in (["hf://o/r/m.safetensors"], ["--checkpoint", "hf://o/r/m.safetensors"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["export", *spelling, "-o", str(tmp_path / "out")])
        assert caught.value.code == 2
        assert "give labeled images with --data" in capsys.readouterr().err  # the checkpoint was downloaded and read
    assert len(downloads(hub)) == 1


def test_invalid_options_fail_before_a_download(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", "hf://o/r/m.pth", "-o", str(tmp_path / "out"), "--min-agreement", "200"])
    assert caught.value.code == 2 and hub.requests == []
