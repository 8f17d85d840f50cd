"""The classifier: a backbone, preceded by the normalization with mean and std.

`resnet50` is the original TwinCar's model with the same state-dict keys; all other names are timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import timm
import torch
import torchvision
from numpy.typing import NDArray
from timm.models import EfficientNet, group_parameters
from torch import Tensor, nn

from twincar_edge.errors import InputError, ModelError, Parameter, nearest
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.checkpoint import Checkpoint

TWINCAR_RESNET50 = "resnet50"
HEAD_FEATURES = 512  # the hidden layer of the original's head
MAX_NAMED_KEYS = 3

# The stages of torchvision's ResNet by parameter name, in the format of timm's `group_parameters`.
_RESNET_STAGES = {"stem": r"^conv1|bn1|maxpool", "blocks": r"^layer(\d+)"}


class CarClassifier(nn.Module):
    """A classifier from prepared images, as uint8 pixels, to logits.

    Normalization happens only here, so that training, evaluation, export and explanation cannot differ in it. Its
    buffers are not in the state dict, which is that of the bare backbone.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, architecture: str, classes: int, preprocess: Preprocess, dropout: float = 0.2) -> None:
        """Build the model with random weights.

        Args:
            architecture: "resnet50", or a timm architecture.
            classes: number of outputs.
            preprocess: the input size, mean and std.
            dropout: dropout rate before the last layer, from 0 to 1.

        Raises:
            InputError: the architecture is unknown, or does not support images of this size.
        """
        super().__init__()
        self.architecture = architecture
        self.classes = classes
        self.preprocess = preprocess
        self.backbone = _build_backbone(architecture, classes, preprocess, dropout)
        # (x / 255 - mean) / std as one multiply-add, computed in float64 so that it is rounded only once.
        mean = torch.tensor(preprocess.mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        std = torch.tensor(preprocess.std, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.register_buffer("scale", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)

    def forward(self, batch_nhwc: Tensor) -> Tensor:
        """Return logits, float32 [N, classes], of `batch_nhwc`, uint8 [N, H, W, 3] in the model's color order."""
        logits: Tensor = self.backbone(self.normalized(batch_nhwc))
        return logits.float()

    def normalized(self, batch_nhwc: Tensor) -> Tensor:
        """Return the backbone's input, float32 [N, 3, H, W], for `batch_nhwc`."""
        # contiguous(): without it, the exported graph contains a Gather for the layout.
        pixels = batch_nhwc.permute(0, 3, 1, 2).contiguous().float()
        return pixels * self.scale + self.shift

    def head(self) -> nn.Module:
        """Return the module from features to logits, for which a pretrained backbone has no weights."""
        if self.architecture == TWINCAR_RESNET50:
            return cast("nn.Module", self.backbone.fc)
        return cast("nn.Module", self.backbone.get_classifier())  # type: ignore[operator]

    def stages(self) -> list[list[str]]:
        """Return the names of the backbone's parameters by stage, from the stem on, without the head.

        timm defines the stages of its models; torchvision's ResNet is grouped in the same way.

        Raises:
            InputError: timm defines no stages for this architecture.
        """
        if self.architecture == TWINCAR_RESNET50:
            matcher = _RESNET_STAGES
        elif hasattr(self.backbone, "group_matcher"):
            matcher = self.backbone.group_matcher(coarse=True)  # type: ignore[operator]
        else:
            raise InputError(f"timm defines no stages for {self.architecture}: train it with freeze_stages = 0")
        head = {id(parameter) for parameter in self.head().parameters()}
        own = {name for name, parameter in self.backbone.named_parameters() if id(parameter) not in head}
        groups = group_parameters(self.backbone, matcher)
        stages = ([name for name in groups[key] if name in own] for key in sorted(groups))
        return [stage for stage in stages if stage]


def features(model: CarClassifier, batch_nhwc: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return a model's logits and features.

    Args:
        model: the classifier.
        batch_nhwc: [N, H, W, 3], values from 0 to 255 in the model's color order.

    Returns:
        The logits, float32 [N, classes], equal to those of `model(batch_nhwc)`; the feature maps [N, C, H, W] of its
        stages, from first to last; and the pooled features [N, C], the input of its head.

    Raises:
        InputError: timm does not support feature maps for this architecture.
    """
    x, net = model.normalized(batch_nhwc), cast("Any", model.backbone)
    if model.architecture == TWINCAR_RESNET50:
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        maps = []
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            maps.append(x)
        pooled = net.avgpool(x).flatten(1)
    elif hasattr(net, "forward_intermediates"):
        x, maps = net.forward_intermediates(x)
        pooled = net.forward_head(x, pre_logits=True)
    else:
        raise InputError(f"timm does not support feature maps for {model.architecture}: choose another architecture")
    return model.head()(pooled).float(), maps, pooled


def cam_layer(model: CarClassifier) -> nn.Module:
    """Return the last layer with a spatial output, just before pooling: the target of Grad-CAM.

    Raises:
        InputError: the architecture has no such layer, for example a transformer.
    """
    if model.architecture == TWINCAR_RESNET50:
        return cast("nn.Module", model.backbone.layer4)
    if isinstance(model.backbone, EfficientNet):  # has another convolution between its last stage and the pooling
        return cast("nn.Module", model.backbone.bn2)
    info = getattr(model.backbone, "feature_info", None)
    names = [entry.get("module", "") for entry in (info if isinstance(info, list) else getattr(info, "info", []))]
    modules = dict(model.backbone.named_modules())
    found = [modules[name] for name in names if name and name in modules]
    # One module with a convolution is enough: for an architecture without a last convolution, timm lists an Identity,
    # which has the same map.
    if not any(isinstance(part, nn.Conv2d) for module in found for part in module.modules()):
        raise InputError(
            f"{model.architecture} has no convolutional stage, which Grad-CAM needs: use ",
            Parameter("method", "occlusion"),
        )
    return cast("nn.Module", found[-1])


def load_model(checkpoint: Checkpoint) -> CarClassifier:
    """Return the checkpoint's model on the CPU, in evaluation mode.

    Raises:
        ModelError: the weights do not fit the architecture, or the number of outputs differs from that of class names.
    """
    try:
        model = CarClassifier(checkpoint.architecture, len(checkpoint.classes), checkpoint.preprocess)
    except InputError as error:
        raise ModelError(f"{checkpoint.name}: {error}") from error
    if not _mismatches(model, checkpoint.state_dict, with_head=False) and _mismatches(model, checkpoint.state_dict):
        raise ModelError(
            f"{checkpoint.name} does not have one output for each of its {len(checkpoint.classes)} class names: "
            "use the class_mapping.json that belongs to it"
        )
    load_backbone(model, checkpoint.state_dict, checkpoint.name)
    return model.eval()


def load_backbone(model: CarClassifier, state_dict: dict[str, Tensor], name: str, *, with_head: bool = True) -> None:
    """Load a state dict into the backbone: all tensors, or none if there is an error.

    Args:
        model: the model to load into.
        state_dict: the backbone's tensors by name.
        name: the name of the source for error messages.
        with_head: False keeps the model's own head, for weights of a model with other classes.

    Raises:
        ModelError: tensors are missing, unexpected, or of another shape.
    """
    mismatches = _mismatches(model, state_dict, with_head)
    if mismatches:
        some = "; ".join(mismatches[:MAX_NAMED_KEYS]) + ("; …" if len(mismatches) > MAX_NAMED_KEYS else "")
        raise ModelError(f"{name} does not fit {model.architecture}: {len(mismatches)} tensors differ ({some})")
    own = state_dict.keys() & model.backbone.state_dict().keys()
    ours = [key for key in own if with_head or not key.startswith(_head_prefix(model))]
    model.backbone.load_state_dict({key: state_dict[key] for key in ours}, strict=with_head)


def fits(model: CarClassifier, state_dict: dict[str, Tensor]) -> bool:
    """Return whether a state dict has exactly the tensors of the backbone and its head, with equal shapes."""
    return not _mismatches(model, state_dict)


def torch_predict(model: CarClassifier) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function that runs the model without gradients: numpy uint8 [N, H, W, 3] to float32 [N, classes].

    Puts the model into evaluation mode; it stays on its device.
    """
    model.eval()
    device = model.scale.device

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = model(torch.from_numpy(batch_nhwc).to(device))
        return np.asarray(logits.cpu().numpy(), np.float32)

    return predict


def _build_backbone(architecture: str, classes: int, preprocess: Preprocess, dropout: float) -> nn.Module:
    if architecture == TWINCAR_RESNET50:
        backbone = torchvision.models.resnet50(weights=None)
        backbone.fc = nn.Sequential(  # the original quickstart's head, with the keys fc.0 and fc.3
            nn.Linear(backbone.fc.in_features, HEAD_FEATURES),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HEAD_FEATURES, classes),
        )
        return cast("nn.Module", backbone)
    # Only names of timm's registry: create_model would also load from hf-hub: and local-dir: references.
    if not timm.is_model(architecture):
        raise InputError(f"timm has no architecture {architecture!r}: {_nearest_architectures(architecture)}")
    options: dict[str, Any] = {"num_classes": classes, "drop_rate": dropout}
    config = timm.get_pretrained_cfg(architecture)
    width, height = preprocess.size_wh
    if config is not None and config.fixed_input_size:
        options["img_size"] = (height, width)
    try:
        return timm.create_model(architecture, pretrained=False, **options)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot build {architecture} for {width}x{height} images: {reason}") from error


def _nearest_architectures(name: str) -> str:
    clause = nearest(name, tuple(timm.list_models()))
    return clause if clause.startswith("did you mean") else "timm.list_models() lists all architectures"


def _head_prefix(model: CarClassifier) -> str:
    head = model.head()
    return next(str(name) for name, module in model.backbone.named_modules() if module is head) + "."


def _mismatches(model: CarClassifier, state_dict: dict[str, Tensor], with_head: bool = True) -> list[str]:
    own = model.backbone.state_dict()
    prefix = _head_prefix(model)
    mismatches = []
    for key in sorted(own.keys() | state_dict.keys()):
        if not with_head and key.startswith(prefix):
            continue
        if key not in state_dict:
            if key.endswith(".num_batches_tracked"):
                continue  # PyTorch before 0.4.1 did not write it, and no logit depends on it
            mismatches.append(f"{key} is missing")
        elif key not in own:
            mismatches.append(f"{key} is unexpected")
        elif own[key].shape != state_dict[key].shape:
            mismatches.append(f"{key} is {list(state_dict[key].shape)}, not {list(own[key].shape)}")
    return mismatches
