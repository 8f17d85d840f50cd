"""A training recipe: every choice that decides what a training gives, and nothing about the machine it runs on."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from twincar_edge.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from twincar_edge.records import Record, Share

DEFAULT_ARCHITECTURE = "tf_efficientnet_lite0"
DEFAULT_SIZE = 224
GROWING_SHARE = 0.75  # of the epochs; the rest trains at the last size
Alpha = Annotated[float, Field(ge=0, le=100)]
Side = Annotated[int, Field(ge=0, le=4096)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


class Augmentation(Record):
    """How training images are varied, each time anew.

    `min_scale` is the smallest share of the image's area that a random crop keeps (1 keeps it whole). `stretch` bounds
    the crop's change of aspect ratio: 4/3 allows 3:4 to 4:3. `flip` is the chance of a left-right flip: 0 where classes
    differ in which side something is on. `rotation_degrees` bounds a rotation either way. `jitter` scales brightness,
    contrast and saturation changes, `hue` bounds a turn of the colours either way, as a share of the whole circle.
    `blur` is the chance of a Gaussian blur. `mixup` and `cutmix` are the alpha of their Beta distributions, 0 for none;
    `mixed_share` of the batches are mixed, by one of the two where both are on, until `mixed_until` (a share of the
    training) has passed: the last epochs see whole cars.
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


class Distillation(Record):
    """How a training learns from a teacher: a checkpoint of the same classes that `fit` is given beside the recipe.

    The loss is `weight` times the cross-entropy with the teacher's answers and 1 - `weight` times that with the labels.
    `temperature` divides the teacher's logits: above 1 its answers get softer, below 1 surer. `hints` is the weight of
    a further loss, the distance of the student's feature maps from the teacher's; 0 leaves it out.

    `teacher_size` is the side of the crops that the teacher sees, in pixels; the model sees the same crops, reduced to
    its training size. 0 shows both the same pixels. `teacher_sha256` is the digest of the teacher's file: `fit` fills
    it in where it is empty, and refuses any other file where it is not.
    """

    weight: Share = 0.7
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    hints: Annotated[float, Field(ge=0, le=100)] = 0.0
    teacher_size: Side = 0
    teacher_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""


class Recipe(Record):
    """What `fit` does. Travels inside the checkpoint and, from there, inside the ONNX manifest; holds no local path.

    `preprocess` is how images reach the finished model, and how they are validated. It may be given as `size`, the side
    of the model's input in pixels, with the normalization that the architecture's public weights expect. Training crops
    may be smaller: `train_size` pixels square, 0 for the size of `preprocess`; they start at `first_train_size`, 0 for
    the same, and grow by steps of `size_step` (progressive learning: Tan and Le, "EfficientNetV2", 2021). A backbone
    that halves its input five times sees every size alike where the sizes are multiples of 32: elsewhere it pads more.

    `weights` says where the backbone starts: "auto" from pretrained weights of the `train` extra, or a download; "file"
    from a state dict given to `fit`; "none" from random weights. `freeze_stages` counts the stages that stay as they
    are, the stem with them; 0 trains everything, and is the default where `weights` is "none".

    Learning rates are the peaks, for the backbone's last stage and for the new head; each stage before the last learns
    `layer_decay` times as fast as the one after it. `schedule` "cosine" warms up over `warmup_share` of the steps and
    decays to nothing; "plateau" starts at the peak and halves the rates after three epochs without a better macro F1.
    `patience` ends a training after so many epochs without a better macro F1; 0 never does.

    `distillation` is how the model learns from a teacher, None where it learns from labels alone.

    `class_balance` "weighted" shows each class as often as any other, "none" each image once an epoch. With an
    `ema_decay` above 0, what is validated and kept is the exponential moving average of the weights over the steps.
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
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
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
            raise ValueError("size and preprocess both say how large the model's input is: give one of them")
        if "preprocess" not in data:
            side = DEFAULT_SIZE if size is None else size
            architecture = data.get("architecture", DEFAULT_ARCHITECTURE)
            if not isinstance(side, int) or not isinstance(architecture, str):
                raise ValueError("size must be a number of pixels, and architecture a name")
            defaults["preprocess"] = default_preprocess(architecture, (side, side))
        if data.get("weights") == "none":
            defaults["freeze_stages"] = 0
        return {**defaults, **data}

    @model_validator(mode="after")
    def _freezes_only_what_has_learned(self) -> Self:
        if self.weights == "none" and self.freeze_stages:
            raise ValueError("random weights cannot stay frozen: freeze_stages must be 0 where weights are none")
        return self

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.first_train_size > min(self.train_size_wh):
            raise ValueError(f"training crops grow: first_train_size must be {min(self.train_size_wh)} or less")
        return self

    @model_validator(mode="after")
    def _reduces_crops(self) -> Self:
        side, largest = 0 if self.distillation is None else self.distillation.teacher_size, max(self.train_size_wh)
        if side and side < largest:
            raise ValueError(f"the model sees the teacher's crops reduced: teacher_size must be {largest} or more")
        return self

    @property
    def train_size_wh(self) -> tuple[int, int]:
        """Return the size of the crops that the model trains on at the end, in pixels."""
        return (self.train_size, self.train_size) if self.train_size else self.preprocess.size_wh

    def crop_size_wh_in(self, epoch: int) -> tuple[int, int]:
        """Return the size of the random crops of an epoch (from 1) in pixels: a teacher's, or the model's."""
        if self.distillation is not None and self.distillation.teacher_size:
            return self.distillation.teacher_size, self.distillation.teacher_size
        return self.train_size_wh_in(epoch)

    def train_size_wh_in(self, epoch: int) -> tuple[int, int]:
        """Return the size of the training crops in an epoch (from 1), in pixels.

        It grows in steps of `size_step` over the first part of the training, `GROWING_SHARE`, and stays there.
        """
        last = self.train_size_wh
        growing = max(1, round(self.epochs * GROWING_SHARE))
        if not self.first_train_size or epoch >= growing:
            return last
        first = self.first_train_size

        def side(end: int) -> int:
            steps = (end - first) * (epoch - 1) / growing / self.size_step
            return min(end, first + round(steps) * self.size_step)

        return side(last[0]), side(last[1])


def default_preprocess(architecture: str, size_wh: tuple[int, int] = (DEFAULT_SIZE, DEFAULT_SIZE)) -> Preprocess:
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
