"""`twincar-edge train`: fit a classifier on labelled car images."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twincar_edge.cli.completion import complete_files, complete_recipes
from twincar_edge.cli.groups import GroupedCommand, option
from twincar_edge.cli.logs import logging_to
from twincar_edge.cli.options import data_options, echo_above, progress_bar
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, require
from twincar_edge.training.distributed import is_main_process
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.recipe_files import DEFAULT_RECIPE, EXTENDING_RECIPE, shipped_recipes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from twincar_edge.training.extension import ExtensionConfig
    from twincar_edge.training.history import EpochMetrics
    from twincar_edge.training.machine import Machine
    from twincar_edge.training.metrics import ClassificationMetrics
    from twincar_edge.training.result import TrainingResult

_STAGES = {
    "check": "checking images",
    "read": "reading images",
    "train": "training",
    "validate": "validating",
    "evaluate": "evaluating",
}


@click.command("train", cls=GroupedCommand, groups=("Data", "Recipe", "Run", "Machine"))
@data_options(argument=True, required=False)
@option(
    "-o",
    "--output",
    group="Run",
    common=True,
    type=click.Path(path_type=Path),
    help="Write the results into this folder: the run.",
)
@option(
    "--recipe",
    group="Recipe",
    common=True,
    show_default=f"{DEFAULT_RECIPE}; with --extend, {EXTENDING_RECIPE}",
    shell_complete=complete_recipes,
    help=f"Train by this recipe: {', '.join(shipped_recipes())}, or a TOML file.",
)
@option(
    "--set",
    "changes",
    group="Recipe",
    common=True,
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the recipe. Repeatable.",
)
@option(
    "--weights",
    group="Recipe",
    shell_complete=complete_files,
    help="Start from these pretrained weights: auto, none, a FILE, or hf://OWNER/REPO/FILE.  "
    "[default: as the recipe says]",
)
@option(
    "--teacher",
    group="Recipe",
    metavar="FILE",
    shell_complete=complete_files,
    help="Learn from the answers of this checkpoint beside the labels: a FILE, or hf://OWNER/REPO/FILE.",
)
@option(
    "--extend",
    group="Recipe",
    metavar="MODEL",
    shell_complete=complete_files,
    help="Add the classes of DATA that this checkpoint does not know to those that it knows: a FILE, or "
    "hf://OWNER/REPO/FILE.",
)
@option(
    "--max-old-drop",
    group="Recipe",
    metavar="POINTS",
    type=click.FloatRange(min=0, max=100),
    default=1.0,
    show_default=True,
    help="With --extend: let top-1 on the classes of MODEL drop by at most this.",
)
@option(
    "--no-validation",
    group="Recipe",
    is_flag=True,
    help="Hold no images out: train on all of DATA for all epochs, and keep the last weights. The same as --set "
    "validation_share=0.",
)
@option(
    "--resume",
    group="Run",
    common=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Continue the training in this folder, on its own data and recipe.",
)
@option(
    "--device",
    group="Machine",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Train on this device; auto takes a GPU where there is one.",
)
@option(
    "--precision",
    group="Machine",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Compute in this precision; auto takes bf16 where the hardware gains by it.",
)
@option("--compile", group="Machine", is_flag=True, help="Let torch.compile make the model faster.")
@option(
    "--threads",
    group="Machine",
    metavar="N",
    type=int,
    default=0,
    help="Use this many CPU threads; 1 where other work runs too.  [default: all]",
)
@option(
    "--cache-mb",
    group="Machine",
    metavar="MB",
    type=int,
    default=4096,
    show_default=True,
    help="Keep decoded images in memory, up to this many megabytes.",
)
@option("--overwrite", group="Run", is_flag=True, help="Replace an earlier run in the same folder.")
def command(
    data: OpenOptions | None,
    output: Path | None,
    recipe: str | None,
    changes: tuple[str, ...],
    weights: str | None,
    teacher: str | None,
    extend: str | None,
    max_old_drop: float,
    no_validation: bool,
    resume: Path | None,
    overwrite: bool,
    **machine: Any,
) -> None:
    """Fit a classifier on DATA and keep the best epoch's checkpoint.

    \b
    DATA is labelled images in one of these layouts:
      a CSV of filename,label, or a folder with labels.csv and images/
      Stanford Cars (cars_train/ and devkit/)
      a Parquet file, or a folder of them
      a folder with one subfolder of images for each class

    \b
    Several GPUs or processes train one model together when torchrun starts them:
      torchrun --nproc-per-node=2 -m twincar_edge train DATA -o RUN
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    for module in ("torch", "torchvision", "timm", "sklearn", "matplotlib", "pytorch_grad_cam"):
        require(module, "train")
    from twincar_edge.api.train import choose_recipe, recorded_training
    from twincar_edge.training import extension
    from twincar_edge.training.hub import resolve_checkpoint
    from twincar_edge.training.machine import Machine

    runs_on = Machine(**machine)
    teacher_file = None if teacher is None else resolve_checkpoint(teacher)
    if resume is not None:
        source = click.get_current_context().get_parameter_source
        given = [
            name
            for name in (
                "output",
                "recipe",
                "changes",
                "weights",
                "extend",
                "max_old_drop",
                "no_validation",
                "overwrite",
            )
            if _is_given(source(name))
        ]
        if data is not None or given:
            raise InputError(f"{resume} has its own data and recipe: give --resume without {_spelled(data, given)}")
        recorded, recorded_data, recorded_teacher, extending = recorded_training(resume)
        teacher_file = teacher_file or recorded_teacher
        result = _fit(recorded, recorded_data, resume, runs_on, teacher=teacher_file, extending=extending, resume=True)
    else:
        if data is None or output is None:
            raise InputError("name the labelled images and the folder of the results: train DATA -o RUN")
        extending = None
        if extend is not None:
            extending = extension.ExtensionConfig(model=resolve_checkpoint(extend), max_old_drop=max_old_drop)
        if no_validation:
            changes = (*changes, "validation_share=0")
        chosen, weights_file = choose_recipe(recipe, changes, weights, extending=extending is not None)
        result = _fit(chosen, data, output, runs_on, weights_file, teacher_file, extending, overwrite=overwrite)
    if is_main_process():
        best = result.best
        reached = f"last epoch {best.epoch}: no images held out"
        if best.validation is not None:
            reached = f"best epoch {best.epoch}: {_shares(best.validation)}"
        click.echo(f"{reached} -> {result.checkpoint}")


def _shares(held_out: ClassificationMetrics) -> str:
    return f"top-1 {held_out.top1:.2%}, top-5 {held_out.top5:.2%}, macro F1 {held_out.macro_f1:.2%}"


def _fit(
    recipe: Recipe,
    data: OpenOptions,
    output: Path,
    machine: Machine,
    weights_file: Path | None = None,
    teacher: Path | None = None,
    extending: ExtensionConfig | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> TrainingResult:
    from twincar_edge.training.fit import fit

    epochs: list[EpochMetrics] = []
    try:
        with progress_bar() as bar, _log_to(bar.console):
            report = _Report(bar, recipe.epochs, epochs)
            return fit(
                recipe,
                data.open(),
                output,
                data_options=data,
                weights_file=weights_file,
                teacher=teacher,
                extending=extending,
                machine=machine,
                overwrite=overwrite,
                resume=resume,
                on_epoch=report.on_epoch,
                progress=report.progress,
            )
    except KeyboardInterrupt:
        if epochs and is_main_process():
            click.echo(
                f"stopped after epoch {epochs[-1].epoch}: the best so far is in {output}; "
                f"go on with: twincar-edge train --resume {output}",
                err=True,
            )
        raise


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
                words += f" {self._done[-1].epoch + 1 if self._done else 1}/{self._epochs}"
            self._bar.reset(self._task, description=words, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def on_epoch(self, row: EpochMetrics) -> None:
        """Print the epoch."""
        self._done.append(row)
        left = sum(entry.seconds for entry in self._done) / len(self._done) * (self._epochs - row.epoch)
        held_out = row.validation
        reached = "" if held_out is None else f"validation loss {held_out.loss:.3f}, {_shares(held_out)}, "
        echo_above(
            self._bar,
            f"epoch {row.epoch}/{self._epochs}: train loss {row.train_loss:.3f}, {reached}"
            f"{row.images_per_s:.0f} images/s, {timedelta(seconds=round(row.seconds))}"
            + (f", {timedelta(seconds=round(left))} left" if left else ""),
        )


def _log_to(console: Console) -> AbstractContextManager[None]:
    """Show what the training room logs, above the bar."""
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    if not is_main_process():
        handler.setLevel(logging.CRITICAL)
    return logging_to(handler, "twincar_edge.training")


def _is_given(source: click.core.ParameterSource | None) -> bool:
    return source is click.core.ParameterSource.COMMANDLINE


def _spelled(data: OpenOptions | None, options: list[str]) -> str:
    names = {"changes": "--set"}
    return ", ".join(
        (["DATA"] if data is not None else []) + [names.get(name, f"--{name.replace('_', '-')}") for name in options]
    )
