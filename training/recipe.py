"""A training recipe: every choice that decides what a training gives, and nothing about the machine it runs on."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from twincar_edge.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

DEFAULT_ARCHITECTURE = "tf_efficientnet_lite0"
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


class Augmentation(BaseModel):
    """How training images are varied, each time anew, on uint8 pixels.

    `min_scale` is the smallest share of the image's area that a random crop keeps (1 keeps it whole). `stretch` bounds
    the crop's change of aspect ratio: 4/3 allows 3:4 to 4:3. `flip` is the chance of a left-right flip: 0 where classes
    differ in which side something is on. `rotation_degrees` bounds a rotation either way. `jitter` scales brightness,
    contrast and saturation changes. `blur` is the chance of a Gaussian blur.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.5
    stretch: Annotated[float, Field(ge=1, le=4)] = 4 / 3
    flip: Share = 0.5
    rotation_degrees: Annotated[float, Field(ge=0, le=90)] = 6.0
    jitter: Share = 0.3
    blur: Share = 0.1


class Recipe(BaseModel):
    """What `fit` does. Travels inside the checkpoint and, from there, inside the ONNX manifest; holds no local path.

    `preprocess` is how images reach the finished model, and how they are validated; left out, it takes the default size
    and the normalization that the architecture's public weights expect. Training crops may be smaller: `train_size`
    pixels square, 0 for the size of `preprocess`. Learning rates are the peaks of the one-cycle schedule, for the
    backbone and for the new head. `freeze_stages` counts the stages that stay as they are, the stem with them; 0 trains
    everything, and is the default where `weights` is "none". `weights` says where the backbone starts: "auto" from the
    pretrained weights that come with the `train` extra, "file" from a state dict given to `fit`, "none" from random
    weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = DEFAULT_ARCHITECTURE
    preprocess: Preprocess
    weights: Literal["auto", "none", "file"] = "auto"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 14
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 64
    train_size: Annotated[int, Field(ge=0, le=4096)] = 0
    learning_rate: Rate = 1.2e-3
    head_learning_rate: Rate = 4e-3
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.02
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    freeze_stages: Annotated[int, Field(ge=0, le=100)] = 2
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    augmentation: Augmentation = Augmentation()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="before")
    @classmethod
    def _with_dependent_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults: dict[str, Any] = {}
        if "preprocess" not in data:
            defaults["preprocess"] = default_preprocess(data.get("architecture", DEFAULT_ARCHITECTURE))
        if data.get("weights") == "none":
            defaults["freeze_stages"] = 0
        return {**defaults, **data}

    @model_validator(mode="after")
    def _freezes_only_what_has_learned(self) -> Self:
        if self.weights == "none" and self.freeze_stages:
            raise ValueError("random weights cannot stay frozen: freeze_stages must be 0 where weights are none")
        return self

    @property
    def train_size_wh(self) -> tuple[int, int]:
        """Return the size of the crops that the model trains on, in pixels."""
        return (self.train_size, self.train_size) if self.train_size else self.preprocess.size_wh


def default_preprocess(architecture: str, size_wh: tuple[int, int] = (224, 224)) -> Preprocess:
    """Return the preprocessing of an architecture: a squash to `size_wh`, and the mean and std of its public weights.

    timm records mean and std for each of its architectures; names that it does not know get ImageNet's.
    """
    if architecture == "resnet50":  # the original TwinCar's, from torchvision
        return Preprocess(size_wh=size_wh)
    import timm

    known = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    if known is None:
        return Preprocess(size_wh=size_wh, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Preprocess(size_wh=size_wh, mean=known.mean, std=known.std)
