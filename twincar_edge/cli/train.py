"""`twincar-edge train`: fit a classifier on labelled car images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from twincar_edge.cli.options import data_options, echo_above, progress_bar
from twincar_edge.datasets.options import OpenOptions
from twincar_edge.errors import InputError, first_fault, require
from twincar_edge.training.recipe import Augmentation, Recipe, default_preprocess

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from twincar_edge.training.fit import EpochMetrics

_RECIPE = {name: field.default for name, field in Recipe.model_fields.items()}
_AUGMENTATION = {name: field.default for name, field in Augmentation.model_fields.items()}
_STAGES = {"check": "checking images", "read": "reading images", "train": "training", "validate": "validating"}


@click.command("train")
@data_options(argument=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the results: the run.")
@click.option("--architecture", default=_RECIPE["architecture"], show_default=True, help="resnet50, or a timm name.")
@click.option("--weights", default="auto", show_default=True, help="Pretrained weights: auto, none, or a FILE.")
@click.option("--size", type=int, default=224, show_default=True, help="Side of the model's input, in pixels.")
@click.option("--train-size", type=int, default=0, help="Side of the training crops.  [default: --size]")
@click.option("--epochs", type=int, default=_RECIPE["epochs"], show_default=True)
@click.option("--batch-size", type=int, default=_RECIPE["batch_size"], show_default=True)
@click.option(
    "--learning-rate", type=float, default=_RECIPE["learning_rate"], show_default=True, help="Peak, backbone."
)
@click.option(
    "--head-learning-rate", type=float, default=_RECIPE["head_learning_rate"], show_default=True, help="Peak."
)
@click.option(
    "--warmup-share", type=float, default=_RECIPE["warmup_share"], show_default=True, help="Part before the peak."
)
@click.option("--weight-decay", type=float, default=_RECIPE["weight_decay"], show_default=True)
@click.option("--label-smoothing", type=float, default=_RECIPE["label_smoothing"], show_default=True)
@click.option("--dropout", type=float, default=_RECIPE["dropout"], show_default=True)
@click.option(
    "--freeze-stages",
    type=int,
    help=f"Stages that do not learn, the stem with them.  [default: {_RECIPE['freeze_stages']}; 0 without weights]",
)
@click.option(
    "--min-scale", type=float, default=_AUGMENTATION["min_scale"], show_default=True, help="Smallest crop, share."
)
@click.option("--flip", type=float, default=_AUGMENTATION["flip"], show_default=True, help="Chance of a mirror image.")
@click.option("--rotation", type=float, default=_AUGMENTATION["rotation_degrees"], show_default=True, help="Degrees.")
@click.option("--jitter", type=float, default=_AUGMENTATION["jitter"], show_default=True, help="Strength, of colours.")
@click.option("--blur", type=float, default=_AUGMENTATION["blur"], show_default=True, help="Chance of a blur.")
@click.option(
    "--validation-share", type=float, default=_RECIPE["validation_share"], show_default=True, help="Held out."
)
@click.option("--seed", type=int, default=_RECIPE["seed"], show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=int, default=0, help="CPU threads; 1 where other work runs too.  [default: all]")
@click.option("--cache-mb", type=int, default=4096, show_default=True, help="Most memory for decoded images.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the same folder.")
def command(data: OpenOptions, output: Path, weights: str, **options: Any) -> None:
    """Fit a classifier on DATA and keep the best epoch's checkpoint.

    \b
    DATA is labelled images in one of these layouts:
      a CSV of filename,label, or a folder with labels.csv and images/
      Stanford Cars (cars_train/ and devkit/)
      a Parquet file, or a folder of them
      a folder with one subfolder of images for each class
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    for module in ("torch", "torchvision", "timm", "sklearn"):
        require(module, "train")
    from twincar_edge.training.fit import fit
    from twincar_edge.training.machine import Machine

    machine = Machine(*(options.pop(name) for name in ("device", "threads", "cache_mb")))
    overwrite = options.pop("overwrite")
    weights_file = None if weights in ("auto", "none") else Path(weights)
    recipe = _recipe("file" if weights_file else weights, options)
    epochs: list[EpochMetrics] = []
    try:
        with progress_bar() as bar, _log_to(bar.console):
            report = _Report(bar, recipe.epochs, epochs)
            result = fit(
                recipe,
                data.open(),
                output,
                data_options=data,
                weights_file=weights_file,
                machine=machine,
                overwrite=overwrite,
                on_epoch=report.on_epoch,
                progress=report.progress,
            )
    except KeyboardInterrupt:
        if epochs:
            click.echo(f"stopped after epoch {len(epochs)}: the best so far is in {output}", err=True)
        raise
    best = result.best
    click.echo(f"best epoch {best.epoch}: top-1 {best.top1:.2%}, top-5 {best.top5:.2%} -> {result.checkpoint}")


class _Report:
    """What a person sees of a training: a line for each epoch, and a bar for what runs at the moment."""

    def __init__(self, bar: Progress, epochs: int, done: list[EpochMetrics]) -> None:
        self._bar = bar
        self._epochs = epochs
        self._done = done
        self._task = bar.add_task("")
        self._stage = ""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Move the bar."""
        if stage != self._stage:
            self._stage = stage
            words = _STAGES.get(stage, stage)
            if stage in ("train", "validate"):
                words += f" {len(self._done) + 1}/{self._epochs}"
            self._bar.reset(self._task, description=words, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def on_epoch(self, row: EpochMetrics) -> None:
        """Print the epoch."""
        self._done.append(row)
        left = sum(entry.seconds for entry in self._done) / row.epoch * (self._epochs - row.epoch)
        echo_above(
            self._bar,
            f"epoch {row.epoch}/{self._epochs}: train loss {row.train_loss:.3f}, validation loss {row.val_loss:.3f}, "
            f"top-1 {row.top1:.2%}, top-5 {row.top5:.2%}, {row.images_per_s:.0f} images/s, "
            f"{timedelta(seconds=round(row.seconds))}" + (f", {timedelta(seconds=round(left))} left" if left else ""),
        )


@contextmanager
def _log_to(console: Console) -> Iterator[None]:
    """Show what the training room logs, above the bar."""
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    logger = logging.getLogger("twincar_edge.training")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _recipe(weights: str, options: dict[str, Any]) -> Recipe:
    """Return the recipe that the options describe; what is left at None takes the recipe's own default."""
    size = options.pop("size")
    architecture = options["architecture"]
    augmentation = {name: options.pop(name) for name in ("min_scale", "flip", "jitter", "blur")}
    augmentation["rotation_degrees"] = options.pop("rotation")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Recipe(
            weights=weights,
            preprocess=default_preprocess(architecture, (size, size)),
            augmentation=Augmentation(**augmentation),
            **given,
        )
    except ValidationError as error:
        raise InputError(f"this is no recipe that can be trained, at {first_fault(error)}") from error
