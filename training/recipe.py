"""A training recipe: every choice that affects the trained weights, independent of the machine."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from twincar_edge.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from twincar_edge.records import SHA256, Settings, Share

DEFAULT_ARCHITECTURE = "tf_efficientnet_lite0"
DEFAULT_SIZE = 224
GROWING_SHARE = 0.75  # of the epochs; the remaining ones use the final size
Alpha = Annotated[float, Field(ge=0, le=100)]
Side = Annotated[int, Field(ge=0, le=4096)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


class Augmentation(Settings):
    """Random augmentation of training images.

    `min_scale` is the smallest share of the image's area in a random crop (1 keeps the whole image). `stretch` limits
    the change of the crop's aspect ratio: 4/3 allows 3:4 to 4:3. `flip` is the probability of a left-right flip; use 0
    if classes differ by the side of a feature. `rotation_degrees` is the largest rotation in either direction. `jitter`
    is the strength of brightness, contrast and saturation changes. `hue` is the largest hue shift in either direction,
    as a share of the full circle. `blur` is the probability of a Gaussian blur. `mixup` and `cutmix` are the alpha of
    their Beta distributions; 0 disables them. `mixed_share` of the batches are mixed, by one of the two at random if
    both are enabled, until `mixed_until` (a share of the epochs): the last epochs see unmixed images.

    `camera` is the probability that an image is degraded as by a roadside camera (`camera_view.py`): motion blur, low
    resolution, low light, noise and JPEG artifacts. A teacher sees the clear crop, so the model learns to give the same
    answer as for that.
    """

    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.5
    stretch: Annotated[float, Field(ge=1, le=4)] = 4 / 3
    flip: Share = 0.5
    rotation_degrees: Annotated[float, Field(ge=0, le=90)] = 6.0
    jitter: Share = 0.3
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    blur: Share = 0.1
    mixup: Alpha = 0.0
    cutmix: Alpha = 0.0
    mixed_share: Share = 0.5
    mixed_until: Share = 1.0
    camera: Share = 0.0


class Distillation(Settings):
    """Knowledge distillation from a teacher, a checkpoint with the same classes that is a parameter of `fit`.

    The loss is `weight` times the cross-entropy with the teacher's answers plus 1 - `weight` times that with the
    labels. `temperature` divides the teacher's logits: above 1 its probabilities get softer, below 1 sharper. `hints`
    is the weight of another loss, the distance between the feature maps of student and teacher; 0 disables it.

    `teacher_size` is the shorter side of the teacher's crops in pixels; the model gets the same crops, reduced to its
    training size. 0 gives both the same pixels. `teacher_sha256` is the digest of the teacher's file: `fit` fills it in
    if it is empty, and otherwise rejects any other file.
    """

    weight: Share = 0.7
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    hints: Annotated[float, Field(ge=0, le=100)] = 0.0
    teacher_size: Side = 0
    teacher_sha256: Annotated[str, Field(pattern=f"^({SHA256})?$")] = ""


class Recipe(Settings):
    """The parameters of a training run. Stored in the checkpoint and in the ONNX manifest; contains no local path.

    `preprocess` is the preprocessing of the trained model, also used for validation. `size`, the side of the model's
    square input or its [width, height], in pixels, can replace it, with the normalization of the architecture's public
    weights. Training crops can be smaller: `train_size` is their shorter side, 0 for the size of `preprocess`. They
    start at `first_train_size`, 0 for the same size, and grow in steps of `size_step` (progressive learning: Tan and
    Le, "EfficientNetV2", 2021). Their longer side follows the shape of the model's input, in the same steps. For a
    backbone of stride 32, use multiples of 32: other sizes need more padding.

    `weights` selects the backbone's initial weights: "auto" takes pretrained weights from the `train` extra or a
    download, "file" a state dict that is a parameter of `fit`, "none" random weights. `freeze_stages` is the number of
    stages to freeze, in addition to the stem; 0 freezes nothing, and is the default if `weights` is "none".

    Learning rates are peak values, for the backbone's last stage and for the new head. The rate of each earlier stage
    is `layer_decay` times that of the next. `schedule` "cosine" warms up over `warmup_share` of the steps, then decays
    to zero; "plateau" starts at the peak and halves the rates after three epochs without an improvement of macro F1.
    `patience` stops training after that many epochs without an improvement of macro F1; 0 disables early stopping.

    `validation_share` of each class is held out, and the best epoch on these images is kept. With 0, nothing is held
    out, all epochs run and the last weights are kept; `patience` must be 0 and the schedule cannot be "plateau".

    `distillation` configures learning from a teacher; None uses labels only.

    `class_balance` "weighted" samples all classes equally often, "none" uses each image once per epoch. With an
    `ema_decay` above 0, the exponential moving average of the weights is validated and saved.
    """

    architecture: str = DEFAULT_ARCHITECTURE
    preprocess: Preprocess
    weights: Literal["auto", "none", "file"] = "auto"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 14
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 64
    train_size: Side = 0
    first_train_size: Side = 0
    size_step: Annotated[int, Field(ge=1, le=4096)] = 16
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: Rate = 1.2e-3
    head_learning_rate: Rate = 4e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    schedule: Literal["cosine", "plateau"] = "cosine"
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.02
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    freeze_stages: Annotated[int, Field(ge=0, le=100)] = 2
    class_balance: Literal["none", "weighted"] = "none"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Annotated[int, Field(ge=0, le=10_000)] = 0
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    augmentation: Augmentation = Augmentation()
    distillation: Distillation | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="before")
    @classmethod
    def _with_dependent_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        defaults: dict[str, Any] = {}
        size = data.pop("size", None)
        if size is not None and "preprocess" in data:
            raise ValueError("size and preprocess both set the model's input size: use only one of them")
        if "preprocess" not in data:
            architecture = data.get("architecture", DEFAULT_ARCHITECTURE)
            if not isinstance(architecture, str):
                raise ValueError("architecture must be a name")
            defaults["preprocess"] = default_preprocess(architecture, _size_wh(DEFAULT_SIZE if size is None else size))
        if data.get("weights") == "none":
            defaults["freeze_stages"] = 0
        return {**defaults, **data}

    @model_validator(mode="after")
    def _check_freeze_stages(self) -> Self:
        if self.weights == "none" and self.freeze_stages:
            raise ValueError("random weights cannot be frozen: with weights none, freeze_stages must be 0")
        return self

    @model_validator(mode="after")
    def _check_needs_no_validation(self) -> Self:
        if not self.validation_share and (self.patience or self.schedule == "plateau"):
            raise ValueError("no image is held out to judge epochs by: set patience to 0 and schedule to cosine")
        return self

    @model_validator(mode="after")
    def _check_first_train_size(self) -> Self:
        if self.first_train_size > min(self.train_size_wh):
            raise ValueError(
                f"training crops can only grow: first_train_size must be {min(self.train_size_wh)} or less"
            )
        return self

    @model_validator(mode="after")
    def _check_teacher_size(self) -> Self:
        side, least = 0 if self.distillation is None else self.distillation.teacher_size, min(self.train_size_wh)
        if side and side < least:
            raise ValueError(
                f"the teacher's crops cannot be smaller than the model's: teacher_size must be {least} or more"
            )
        return self

    @property
    def train_size_wh(self) -> tuple[int, int]:
        """Return the final size of the training crops, in pixels."""
        return self._shaped(self.train_size) if self.train_size else self.preprocess.size_wh

    def crop_size_wh_in(self, epoch: int) -> tuple[int, int]:
        """Return the size of the random crops in an epoch (from 1), in pixels: the teacher's size if it has one."""
        if self.distillation is not None and self.distillation.teacher_size:
            return self._shaped(self.distillation.teacher_size)
        return self.train_size_wh_in(epoch)

    def train_size_wh_in(self, epoch: int) -> tuple[int, int]:
        """Return the size of the training crops in an epoch (from 1), in pixels.

        The size grows in steps of `size_step` during the first `GROWING_SHARE` of the epochs, then stays constant.
        """
        last = min(self.train_size_wh)
        growing = max(1, round(self.epochs * GROWING_SHARE))
        if not self.first_train_size or epoch >= growing:
            return self.train_size_wh
        steps = (last - self.first_train_size) * (epoch - 1) / growing / self.size_step
        side = min(last, self.first_train_size + round(steps) * self.size_step)
        return self._shaped(side) if side < last else self.train_size_wh

    def _shaped(self, side: int) -> tuple[int, int]:
        """Return the size with this shorter side and the shape of the model's input, in multiples of `size_step`."""
        width, height = self.preprocess.size_wh
        if width == height:
            return side, side
        longer = max(side, round(side * max(width, height) / min(width, height) / self.size_step) * self.size_step)
        return (longer, side) if width > height else (side, longer)


def _size_wh(size: Any) -> tuple[int, int]:
    match size:
        case int(side):
            return side, side
        case [int(width), int(height)]:
            return width, height
    raise ValueError("size must be a number of pixels, or a width and a height")


def default_preprocess(architecture: str, size_wh: tuple[int, int] = (DEFAULT_SIZE, DEFAULT_SIZE)) -> Preprocess:
    """Return the preprocessing of an architecture: a resize to `size_wh`, with the mean and std of its public weights.

    timm has the mean and std of its architectures; unknown ones get ImageNet's. The resize is the fastest one that
    does not alias; the original's ResNet50 keeps that of its script.
    """
    if architecture == "resnet50":  # the original TwinCar's, from torchvision
        return Preprocess(size_wh=size_wh)
    import timm

    known = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if known is None else (known.mean, known.std)
    return Preprocess(size_wh=size_wh, interpolation="pyramid", mean=mean, std=std)
