"""The classifier: a backbone by name behind the one place where mean and std are applied.

`resnet50` is the original TwinCar's model, its state-dict keys included; every other name is timm's.
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

# Which parameters of torchvision's ResNet belong to which stage, in the notation of timm's `group_parameters`.
_RESNET_STAGES = {"stem": r"^conv1|bn1|maxpool", "blocks": r"^layer(\d+)"}


class CarClassifier(nn.Module):
    """A backbone that takes prepared images as they are: uint8 pixels in, logits out.

    Normalization stands in here and nowhere else, so that training, evaluation, export and explanation cannot differ
    in it. The buffers that hold it are not part of the state dict: a state dict is the bare backbone's.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, architecture: str, classes: int, preprocess: Preprocess, dropout: float = 0.2) -> None:
        """Build the model with random weights.

        Args:
            architecture: "resnet50", or any name that timm knows.
            classes: number of outputs.
            preprocess: gives the input size, mean and std.
            dropout: the share of head inputs that training drops.

        Raises:
            InputError: the architecture is not known, or cannot take images of this size.
        """
        super().__init__()
        self.architecture = architecture
        self.classes = classes
        self.preprocess = preprocess
        self.backbone = _build_backbone(architecture, classes, preprocess, dropout)
        # (x / 255 - mean) / std as one multiply-add; in float64 until the end, so that nothing is rounded twice.
        mean = torch.tensor(preprocess.mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        std = torch.tensor(preprocess.std, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.register_buffer("scale", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)

    def forward(self, batch_nhwc: Tensor) -> Tensor:
        """Return logits, float32 [N, classes], of `batch_nhwc`, uint8 [N, H, W, 3] in the model's colour order."""
        logits: Tensor = self.backbone(self.normalized(batch_nhwc))
        return logits.float()

    def normalized(self, batch_nhwc: Tensor) -> Tensor:
        """Return what the backbone takes, float32 [N, 3, H, W], of `batch_nhwc`."""
        # contiguous(): without it the exported graph ends in a Gather for the layout.
        pixels = batch_nhwc.permute(0, 3, 1, 2).contiguous().float()
        return pixels * self.scale + self.shift

    def head(self) -> nn.Module:
        """Return the module that turns features into logits: what a pretrained backbone has no weights for."""
        if self.architecture == TWINCAR_RESNET50:
            return cast("nn.Module", self.backbone.fc)
        return cast("nn.Module", self.backbone.get_classifier())  # type: ignore[operator]

    def stages(self) -> list[list[str]]:
        """Return the names of the backbone's parameters, stage by stage: the stem first, the head left out.

        timm records for its models which parameter belongs to which stage; torchvision's ResNet is grouped alike.

        Raises:
            InputError: timm records no stages for this architecture.
        """
        if self.architecture == TWINCAR_RESNET50:
            matcher = _RESNET_STAGES
        elif hasattr(self.backbone, "group_matcher"):
            matcher = self.backbone.group_matcher(coarse=True)  # type: ignore[operator]
        else:
            raise InputError(f"timm knows no stages of {self.architecture}: train it with freeze_stages = 0")
        head = {id(parameter) for parameter in self.head().parameters()}
        own = {name for name, parameter in self.backbone.named_parameters() if id(parameter) not in head}
        groups = group_parameters(self.backbone, matcher)
        stages = ([name for name in groups[key] if name in own] for key in sorted(groups))
        return [stage for stage in stages if stage]


def features(model: CarClassifier, batch_nhwc: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return a model's logits with the features that they are made of.

    Args:
        model: the classifier.
        batch_nhwc: [N, H, W, 3], values 0 to 255 in the model's colour order.

    Returns:
        The logits, float32 [N, classes], as the model itself gives them; the feature maps [N, C, H, W] of its stages,
        from first to last; and the pooled features [N, C] that its head takes.

    Raises:
        InputError: timm gives no feature maps of this architecture.
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
        raise InputError(f"timm gives no feature maps of {model.architecture}: choose another architecture")
    return model.head()(pooled).float(), maps, pooled


def cam_layer(model: CarClassifier) -> nn.Module:
    """Return the last layer whose output keeps the image's layout, just before pooling: the target of Grad-CAM.

    Raises:
        InputError: the architecture has no such stage, a transformer for example.
    """
    if model.architecture == TWINCAR_RESNET50:
        return cast("nn.Module", model.backbone.layer4)
    if isinstance(model.backbone, EfficientNet):  # a convolution more stands between its last stage and the pooling
        return cast("nn.Module", model.backbone.bn2)
    info = getattr(model.backbone, "feature_info", None)
    names = [entry.get("module", "") for entry in (info if isinstance(info, list) else getattr(info, "info", []))]
    modules = dict(model.backbone.named_modules())
    found = [modules[name] for name in names if name and name in modules]
    # Of all of them one with a convolution is enough: timm also names the empty place (an Identity) of a last
    # convolution that an architecture leaves out, and that gives the same map.
    if not any(isinstance(part, nn.Conv2d) for module in found for part in module.modules()):
        raise InputError(
            f"{model.architecture} has no convolutional stage to look at: Grad-CAM needs a convolutional net; use ",
            Parameter("method", "occlusion"),
        )
    return cast("nn.Module", found[-1])


def load_model(checkpoint: Checkpoint) -> CarClassifier:
    """Return the checkpoint's model in evaluation mode, on the CPU.

    Raises:
        ModelError: the weights do not fit the architecture, or the outputs do not fit the class names.
    """
    try:
        model = CarClassifier(checkpoint.architecture, len(checkpoint.classes), checkpoint.preprocess)
    except InputError as error:
        raise ModelError(f"{checkpoint.name}: {error}") from error
    if not _misfits(model, checkpoint.state_dict, with_head=False) and _misfits(model, checkpoint.state_dict):
        raise ModelError(
            f"{checkpoint.name} does not have one output for each of its {len(checkpoint.classes)} class names: "
            "give the class_mapping.json that belongs to it"
        )
    load_backbone(model, checkpoint.state_dict, checkpoint.name)
    return model.eval()


def load_backbone(model: CarClassifier, state_dict: dict[str, Tensor], name: str, *, with_head: bool = True) -> None:
    """Load a state dict into the backbone, every tensor or none.

    Args:
        model: where to.
        state_dict: the backbone's tensors by name.
        name: what to call the source in an error.
        with_head: False leaves the head as it is: weights of a model with other classes start a training so.

    Raises:
        ModelError: tensors are missing, superfluous, or of another shape.
    """
    misfits = _misfits(model, state_dict, with_head)
    if misfits:
        some = "; ".join(misfits[:MAX_NAMED_KEYS]) + ("; …" if len(misfits) > MAX_NAMED_KEYS else "")
        raise ModelError(f"{name} does not fit {model.architecture}: {len(misfits)} tensors differ ({some})")
    own = state_dict.keys() & model.backbone.state_dict().keys()
    ours = [key for key in own if with_head or not key.startswith(_head_prefix(model))]
    model.backbone.load_state_dict({key: state_dict[key] for key in ours}, strict=with_head)


def fits(model: CarClassifier, state_dict: dict[str, Tensor]) -> bool:
    """Return whether a state dict has every tensor of the backbone and its head, in their shapes, and no other."""
    return not _misfits(model, state_dict)


def torch_predict(model: CarClassifier) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the model as a function from `batch_nhwc` (uint8) to logits (float32), both numpy, without gradients.

    It runs on the device that holds the model, in evaluation mode, which it sets.
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
        backbone.fc = nn.Sequential(  # the original quickstart's head, whose keys are fc.0 and fc.3
            nn.Linear(backbone.fc.in_features, HEAD_FEATURES),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HEAD_FEATURES, classes),
        )
        return cast("nn.Module", backbone)
    # Only names out of timm's table: create_model itself would also follow hf-hub: and local-dir: to somewhere else.
    if not timm.is_model(architecture):
        raise InputError(f"no architecture {architecture!r} in timm: {_nearest_architectures(architecture)}")
    options: dict[str, Any] = {"num_classes": classes, "drop_rate": dropout}
    config = timm.get_pretrained_cfg(architecture)
    width, height = preprocess.size_wh
    if config is not None and config.fixed_input_size:
        options["img_size"] = (height, width)
    try:
        return timm.create_model(architecture, pretrained=False, **options)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{architecture} cannot be built for {width}x{height} images: {reason}") from error


def _nearest_architectures(name: str) -> str:
    clause = nearest(name, tuple(timm.list_models()))
    return clause if clause.startswith("did you mean") else "timm.list_models() lists what there is"


def _head_prefix(model: CarClassifier) -> str:
    head = model.head()
    return next(str(name) for name, module in model.backbone.named_modules() if module is head) + "."


def _misfits(model: CarClassifier, state_dict: dict[str, Tensor], with_head: bool = True) -> list[str]:
    own = model.backbone.state_dict()
    prefix = _head_prefix(model)
    misfits = []
    for key in sorted(own.keys() | state_dict.keys()):
        if not with_head and key.startswith(prefix):
            continue
        if key not in state_dict:
            if key.endswith(".num_batches_tracked"):
                continue  # PyTorch before 0.4.1 wrote none, and no answer depends on it
            misfits.append(f"{key} is missing")
        elif key not in own:
            misfits.append(f"{key} is not known")
        elif own[key].shape != state_dict[key].shape:
            misfits.append(f"{key} is {list(state_dict[key].shape)}, not {list(own[key].shape)}")
    return misfits
