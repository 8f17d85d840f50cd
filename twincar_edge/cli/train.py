"""`twincar-edge train`: train a classifier on labeled car images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twincar_edge.cli.completion import complete_files, complete_recipes
from twincar_edge.cli.groups import GroupedCommand, option
from twincar_edge.cli.options import check_needs, data_options, is_given
from twincar_edge.cli.train_report import reporting, shares
from twincar_edge.cli.written import print_written
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, require
from twincar_edge.training.distributed import is_main_process
from twincar_edge.training.recipe_files import DEFAULT_RECIPE, EXTENDING_RECIPE, is_changed, shipped_recipes

if TYPE_CHECKING:
    from twincar_edge.training.machine import Machine
    from twincar_edge.training.run_folder import RunRecord


# Options that cannot be combined with --resume.
_NEW_RUN_OPTIONS = (
    "output", "recipe", "changes", "weights", "extend", "max_old_drop", "folds", "no_validation", "overwrite"
)  # fmt: skip


@click.command("train", cls=GroupedCommand, groups=("Data", "Recipe", "Run", "Machine"))
@data_options(argument=True, required=False)
@option(
    "-o",
    "--output",
    group="Run",
    common=True,
    type=click.Path(path_type=Path),
    help="Write the results into this folder, RUN.",
)
@option(
    "--recipe",
    group="Recipe",
    common=True,
    shell_complete=complete_recipes,
    help=f"Use this recipe: {', '.join(shipped_recipes())}, or a TOML file.  "
    f"[default: {DEFAULT_RECIPE}; with --extend, {EXTENDING_RECIPE}]",
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
    help="Also learn from the answers of this checkpoint (distillation): a FILE, or hf://OWNER/REPO/FILE; with "
    "--folds, the folder of a run with the same folds.",
)
@option(
    "--extend",
    group="Recipe",
    metavar="MODEL",
    shell_complete=complete_files,
    help="Add the new classes in DATA to those of this checkpoint: a FILE, or hf://OWNER/REPO/FILE.",
)
@option(
    "--max-old-drop",
    group="Recipe",
    metavar="POINTS",
    type=click.FloatRange(min=0, max=100),
    default=1.0,
    show_default=True,
    help="With --extend: allow top-1 on the classes of MODEL to drop by at most this, in points.",
)
@option(
    "--folds",
    group="Recipe",
    metavar="N",
    type=click.IntRange(2, 100),
    help="Cross-validate: train N times, holding out a different part of each class, and report mean and spread.",
)
@option(
    "--no-validation",
    group="Recipe",
    is_flag=True,
    help="Hold out no images: train on all of DATA for all epochs, and keep the last weights. Same as --set "
    "validation_share=0.",
)
@option(
    "--resume",
    group="Run",
    common=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Continue the training in this folder, with its data and recipe.",
)
@option(
    "--device",
    group="Machine",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Train on this device; auto uses a GPU if available.",
)
@option(
    "--precision",
    group="Machine",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Compute in this precision; auto uses bf16 if the hardware is faster with it.",
)
@option("--compile", group="Machine", is_flag=True, help="Speed up the model with torch.compile.")
@option(
    "--threads",
    group="Machine",
    metavar="N",
    type=int,
    default=0,
    help="Use this many CPU threads.  [default: all]",
)
@option(
    "--cache-mb",
    group="Machine",
    metavar="MB",
    type=int,
    default=4096,
    show_default=True,
    help="Cache decoded images in memory, up to this many megabytes.",
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
    folds: int | None,
    no_validation: bool,
    resume: Path | None,
    overwrite: bool,
    **machine: Any,
) -> None:
    """Train a classifier on DATA and keep the best epoch's checkpoint.

    \b
    DATA contains labeled images in one of these layouts:
      a CSV of filename,label, or a folder with labels.csv and images/
      Stanford Cars (cars_train/ and devkit/)
      a Parquet file, or a folder of them
      a folder with one subfolder of images for each class

    \b
    Several GPUs or processes train one model together when torchrun starts them:
      torchrun --nproc-per-node=2 -m twincar_edge train DATA -o RUN
    """  # noqa: D301 - \b is click's marker for a paragraph that is not rewrapped
    for module in ("torch", "torchvision", "timm", "sklearn", "matplotlib", "pytorch_grad_cam"):
        require(module, "train")
    from twincar_edge.api.train import choose_recipe, recorded_training
    from twincar_edge.training import extension
    from twincar_edge.training.hub import resolve_checkpoint
    from twincar_edge.training.machine import Machine
    from twincar_edge.training.run_folder import RunRecord

    runs_on = Machine(**machine)
    teacher_file = None if teacher is None else resolve_checkpoint(teacher)
    if resume is not None:
        given = [name for name in _NEW_RUN_OPTIONS if is_given(name)]
        if data is not None or given:
            raise InputError(f"{resume} has its own data and recipe: leave out {_spelled(data, given)}")
        record, images = recorded_training(resume)
        record = record.model_copy(update={"teacher": teacher_file or record.teacher})
        output = resume
    else:
        check_needs({"max_old_drop": ("extend",)})
        if data is None or output is None:
            raise InputError("a new training needs labeled images and a folder for its results: train DATA -o RUN")
        if folds is not None and (extend is not None or no_validation):
            other = "--no-validation" if extend is None else "--extend"
            raise InputError(f"--folds cannot be combined with {other}: it holds out parts of DATA in turn")
        extending = None
        if extend is not None:
            extending = extension.ExtensionConfig(model=resolve_checkpoint(extend), max_old_drop=max_old_drop)
        if no_validation:
            if is_changed(changes, "validation_share"):
                raise InputError("--no-validation cannot be combined with --set validation_share: leave one out")
            changes = (*changes, "validation_share=0")
        chosen, weights_file = choose_recipe(recipe, changes, weights, extending=extending is not None)
        record, images = (
            RunRecord(recipe=chosen, weights_file=weights_file, teacher=teacher_file, extending=extending, folds=folds),
            data,
        )
    again = resume is not None
    if record.folds is None:
        _fit(record, images, output, runs_on, overwrite=overwrite, resume=again)
    else:
        _cross_validate(record, record.folds, images, output, runs_on, overwrite=overwrite, resume=again)


def _fit(
    record: RunRecord, data: OpenOptions, output: Path, machine: Machine, *, overwrite: bool, resume: bool
) -> None:
    from twincar_edge.training.fit import fit

    with reporting(output, record.recipe.epochs) as report:
        result = fit(
            record.recipe,
            data.open(),
            output,
            data_options=data,
            weights_file=record.weights_file,
            teacher=record.teacher,
            extending=record.extending,
            machine=machine,
            overwrite=overwrite,
            resume=resume,
            on_epoch=report.on_epoch,
            progress=report.progress,
        )
    if is_main_process():
        best = result.best
        reached = f"last epoch {best.epoch}, no images held out"
        if best.validation is not None:
            reached = f"best epoch {best.epoch}, {shares(best.validation)}"
        print_written(result.checkpoint, about=reached)


def _cross_validate(
    record: RunRecord, folds: int, data: OpenOptions, output: Path, machine: Machine, *, overwrite: bool, resume: bool
) -> None:
    from twincar_edge.training.cross_validation import cross_validate
    from twincar_edge.training.run_folder import RunFolder

    with reporting(output, record.recipe.epochs, folds) as report:
        found = cross_validate(
            record.recipe,
            data.open(),
            output,
            folds,
            data_options=data,
            weights_file=record.weights_file,
            teacher=record.teacher,
            machine=machine,
            overwrite=overwrite,
            resume=resume,
            on_fold=report.on_fold,
            on_epoch=report.on_epoch,
            progress=report.progress,
        )
    click.echo(found.to_markdown(), nl=False)
    print_written(*RunFolder(output).folds)


def _spelled(data: OpenOptions | None, options: list[str]) -> str:
    names = {"changes": "--set"}
    return ", ".join(
        (["DATA"] if data is not None else []) + [names.get(name, f"--{name.replace('_', '-')}") for name in options]
    )
