"""A ResNet50 that knows real cars, where no ImageNet weights of it can be had: the bundled model teaches it.

    python -m twincar_edge.benchmarks.distill_resnet50 cars196 -o FOLDER

From random weights on a few thousand pictures a ResNet50 learns little in the hours that a CPU has. The bundled model
began from ImageNet weights: the student learns its answers (Hinton, Vinyals and Dean, "Distilling the knowledge in a
neural network", 2015) and its feature maps (Romero et al., "FitNets", 2015) on the same random crop, which the teacher
sees at a larger size. What comes out is for measuring what INT8 costs a ResNet50 on real input; where ImageNet weights
can be had, `train --recipe resnet50-cars196` is the better way.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, interpolate, mse_loss, one_hot
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.models.resnet import Bottleneck

from twincar_edge.bundled import default_model
from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import Dataset, Split, check_integrity, open_dataset, stratified_split, write_split
from twincar_edge.errors import InputError, TwincarError
from twincar_edge.manifest import read_manifest
from twincar_edge.runtime.inference.session import open_engine
from twincar_edge.training.augmentation import augment, draw_choices
from twincar_edge.training.checkpoint import write_checkpoint
from twincar_edge.training.data import TrainingImages, batches_of, draw_order, prefetch, with_margin
from twincar_edge.training.machine import epoch_seed, seeded, uses_bf16
from twincar_edge.training.metrics import classification_metrics
from twincar_edge.training.model import CarClassifier, torch_predict
from twincar_edge.training.optimization import freeze_stages, train_mode
from twincar_edge.training.recipe import Augmentation, Recipe, default_preprocess

TEACHER_SIZE_WH = (160, 160)
SIZES = (64,) * 24 + (96,) * 14 + (128,) * 14  # side of the student's crops in each epoch, in pixels
FROZEN_EPOCHS = 14  # the last: stem and layers 1 and 2 stay as they are, as the original TwinCar trains
TEACHER_SHARE = 0.7  # of what the student is to answer; the rest is the label
TEMPERATURE = 0.6  # of the teacher's answers: label smoothing left them less sure than they are right
RECIPE = Recipe(
    architecture="resnet50",
    weights="none",
    preprocess=default_preprocess("resnet50", (160, 160)),
    batch_size=64,
    learning_rate=1.5e-3,
    warmup_share=0.08,
    weight_decay=0.05,
    dropout=0.0,
    ema_decay=0.998,
    augmentation=Augmentation(min_scale=0.5),
)

# The teacher's layers whose input is a feature map at 1/8, 1/16 and 1/32 of the picture's size, with its channels, and
# the channels of ResNet50's layers 2 to 4, whose maps have those sizes; then the same of the pooled features.
HINTS = (("backbone.blocks.3.0.conv_pw", 40), ("backbone.blocks.5.0.conv_pw", 112), ("backbone.conv_head", 320))
STUDENT_CHANNELS = (512, 1024, 2048)
HEAD, POOLED, STUDENT_POOLED = "backbone.classifier", 1280, 2048


class Teacher:
    """The bundled INT8 model at another size, with its feature maps as further outputs."""

    def __init__(self, size_wh: tuple[int, int] = TEACHER_SIZE_WH) -> None:
        """Open the model.

        Args:
            size_wh: multiples of 32, at which the architecture pads as at the size that the file was exported for.
        """
        model = onnx.load(default_model())
        for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim[1:3], size_wh[::-1], strict=True):
            dim.dim_value = side
        del model.graph.value_info[:]
        inputs = {node.input[1].partition(".weight")[0]: node.input[0] for node in model.graph.node if node.input[1:]}
        names = [inputs[layer] for layer in (*(layer for layer, _ in HINTS), HEAD)]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        self._input = model.graph.input[0].name
        with TemporaryDirectory() as folder:
            file = Path(folder) / "teacher.onnx"
            onnx.save(model, file)
            self._session = open_engine(file, ep="cpu", spinning=True).session

    def __call__(self, batch_nhwc: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits and feature maps [N, C, H, W], the pooled features [N, C] after them, of pixels 0 to 255."""
        pixels = batch_nhwc.round().to(torch.uint8).numpy()
        logits, *maps = (torch.from_numpy(output) for output in self._session.run(None, {self._input: pixels}))
        return logits, maps


class Student(nn.Module):
    """A ResNet50 with a projection of each of its feature maps onto the teacher's."""

    def __init__(self, model: CarClassifier) -> None:
        """Wrap the model, whose blocks then start as identities (Goyal et al., 2017)."""
        super().__init__()
        self.model = model
        for module in model.backbone.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
        self.projections = nn.ModuleList(
            nn.Conv2d(own, theirs, 1) for own, (_, theirs) in zip(STUDENT_CHANNELS, HINTS, strict=True)
        )
        self.pooled = nn.Linear(STUDENT_POOLED, POOLED)

    def forward(self, batch_nhwc: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits, and the projected maps in the order of the teacher's, of pixels 0 to 255."""
        net: Any = self.model.backbone
        x = batch_nhwc.permute(0, 3, 1, 2) * self.model.scale + self.model.shift
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        maps = []
        for layer, projection in zip((net.layer2, net.layer3, net.layer4), self.projections, strict=True):
            x = layer(x)
            maps.append(projection(x))
        features = net.avgpool(x).flatten(1)
        return net.fc(features), [*maps, self.pooled(features)]


def hint_loss(own: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Return the mean squared difference of the maps, each channel of the teacher's at mean 0 and variance 1."""
    losses = []
    for mine, target in zip(own, theirs, strict=True):
        wanted = adaptive_avg_pool2d(target, (mine.shape[-2], mine.shape[-1])) if target.ndim == 4 else target
        std, mean = torch.std_mean(wanted, dim=[axis for axis in range(wanted.ndim) if axis != 1], keepdim=True)
        losses.append(mse_loss(mine.float(), (wanted - mean) / (std + 1e-3)))
    return torch.stack(losses).mean()


class Distillation:
    """One student, its teacher, and what changes from step to step."""

    def __init__(self, images: TrainingImages, classes: int, sizes: tuple[int, ...]) -> None:
        """Build the student from random weights, for epochs with crops of these sizes."""
        self.images = images
        self.model = CarClassifier(RECIPE.architecture, classes, RECIPE.preprocess, RECIPE.dropout)
        self.student = Student(self.model).to(memory_format=torch.channels_last)
        self.teacher = Teacher()
        self.ema = ModelEmaV3(self.model, decay=RECIPE.ema_decay, use_warmup=True)
        self.bf16 = uses_bf16("auto", torch.device("cpu"), (min(sizes), min(sizes)))
        self._frozen_norms: list[nn.Module] = []
        self._steps = 0
        groups = [
            {
                "params": [p for p in self.student.parameters() if (p.ndim > 1) == decays],
                "weight_decay": RECIPE.weight_decay if decays else 0.0,
            }
            for decays in (True, False)
        ]
        self._optimizer = AdamW(groups, lr=RECIPE.learning_rate, fused=True)
        total = len(sizes) * len(batches_of(images.labels, RECIPE.batch_size))
        self._schedule = OneCycleLR(
            self._optimizer, RECIPE.learning_rate, total_steps=total, pct_start=RECIPE.warmup_share
        )

    def freeze(self) -> None:
        """Let the stem and layers 1 and 2 stay as they are from here on."""
        self._frozen_norms = freeze_stages(self.model, 2)

    def run_epoch(self, epoch: int, side: int) -> tuple[float, float, float]:
        """Train one epoch; returns means of the loss, of the hints' loss, and of how often the teacher answers so."""
        torch.manual_seed(epoch_seed(RECIPE.seed, epoch))
        generator = torch.Generator().manual_seed(epoch_seed(RECIPE.seed, epoch))
        train_mode(self.model, self._frozen_norms)
        batches = batches_of(draw_order(self.images.labels, False, generator), RECIPE.batch_size)
        sums = torch.zeros(3)
        for pixels, labels in prefetch(self.images, batches, with_margin(TEACHER_SIZE_WH)):
            choices = draw_choices(RECIPE.augmentation, len(labels), TEACHER_SIZE_WH, generator)
            crops = augment(pixels, choices, TEACHER_SIZE_WH)
            answers, maps = self.teacher(crops)
            small = interpolate(crops.permute(0, 3, 1, 2), (side, side), mode="bilinear", antialias=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                logits, own = self.student(small.permute(0, 2, 3, 1))
            soft = (answers / TEMPERATURE).softmax(dim=1)
            wanted = TEACHER_SHARE * soft + (1 - TEACHER_SHARE) * one_hot(labels, self.model.classes)
            losses = torch.stack([cross_entropy(logits.float(), wanted), hint_loss(own, maps)])
            self._optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._schedule.step()
            self.ema.update(self.model, self._steps)
            self._steps += 1
            same = (logits.detach().argmax(dim=1) == answers.argmax(dim=1)).float().mean()
            sums += torch.cat([losses.detach(), same[None]])
        loss, hints, same_share = (sums / len(batches)).tolist()
        return loss, hints, same_share


def distill(
    dataset: Dataset,
    folder: Path,
    *,
    sizes: tuple[int, ...] = SIZES,
    frozen_epochs: int = FROZEN_EPOCHS,
    say: Callable[[str], None] = lambda _line: None,
) -> Path:
    """Train a ResNet50 and return its checkpoint, that of the epoch with the best top-1 on the held-out images.

    Every fifth epoch is validated, and each of the last five.

    Args:
        dataset: images of the bundled model's classes.
        folder: gets the checkpoint `best.pt` and both halves of the split.
        sizes: the side of the student's crops in each epoch, in pixels.
        frozen_epochs: how many of the last epochs leave the stem and layers 1 and 2 as they are.
        say: gets a line about each epoch.

    Raises:
        InputError: the data has other classes than the bundled model, or cannot be split.
    """
    if tuple(dataset.classes) != tuple(read_manifest(default_model()).classes):
        raise InputError(f"{dataset.name} has other classes than the bundled model: give crops of Stanford Cars 196")
    usable, _ = check_integrity(dataset)
    split = stratified_split(usable, RECIPE.validation_share, RECIPE.seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_split(split, folder)
    images = TrainingImages(split.train, RECIPE.preprocess, TEACHER_SIZE_WH)
    best = -1.0
    with seeded(RECIPE.seed):
        distillation = Distillation(images, len(dataset.classes), sizes)
        say("bf16" if distillation.bf16 else "fp32")
        for epoch, side in enumerate(sizes, start=1):
            if epoch == len(sizes) - frozen_epochs + 1:
                distillation.freeze()
            start = time.perf_counter()
            loss, hints, same = distillation.run_epoch(epoch, side)
            seconds = time.perf_counter() - start
            line = f"epoch {epoch} at {side} px: loss {loss:.3f}, hints {hints:.3f}, as the teacher {same:.1%}, "
            line += f"{seconds:.0f} s"
            if epoch % 5 == 0 or epoch > len(sizes) - 5:
                top1, top5 = _held_out(distillation, split)
                line += f"; held out top-1 {top1:.2%}, top-5 {top5:.2%}"
                if top1 >= best:
                    best = top1
                    _write(distillation, split, folder / "best.pt", epoch, top1, top5)
            say(line)
    return folder / "best.pt"


def _held_out(distillation: Distillation, split: Split) -> tuple[float, float]:
    logits = dataset_logits(
        torch_predict(distillation.ema.module), split.validation, RECIPE.preprocess, RECIPE.batch_size
    )
    metrics = classification_metrics(logits, split.validation.labels)
    return metrics.top1, metrics.top5


def _write(distillation: Distillation, split: Split, path: Path, epoch: int, top1: float, top5: float) -> None:
    write_checkpoint(
        path,
        architecture=RECIPE.architecture,
        state_dict=distillation.ema.module.backbone.state_dict(),
        classes=split.train.classes,
        preprocess=RECIPE.preprocess,
        recipe={"made_by": "twincar_edge.benchmarks.distill_resnet50", **RECIPE.model_dump(mode="json")},
        data=split.train.record(),
        epoch=epoch,
        validation_top1=top1,
        validation_top5=top5,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the training from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m twincar_edge.benchmarks.distill_resnet50", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "data", type=Path, help="crops of Stanford Cars 196, in any layout that `twincar-edge train` takes"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the checkpoint")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    try:
        say(str(distill(open_dataset(options.data), options.output, say=say)))
    except TwincarError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
