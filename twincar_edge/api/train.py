"""`tw.train`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from twincar_edge.api.data import PathLike, labeled_images
from twincar_edge.arguments import checked_arguments
from twincar_edge.errors import InputError, Parameter, require
from twincar_edge.training.history import EpochMetrics
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.recipe_files import DEFAULT_RECIPE, EXTENDING_RECIPE, is_changed, read_recipe

if TYPE_CHECKING:
    from twincar_edge.datasets import OpenOptions
    from twincar_edge.training.result import TrainingResult
    from twincar_edge.training.run_folder import RunRecord


# Parameters of `train` that cannot be combined with `resume`. `teacher` can: it may replace a moved file.
_NEW_RUN = (
    "data", "output", "images", "class_mapping", "crop", "recipe", "changes", "weights", "extend", "max_old_drop",
    "overwrite",
)  # fmt: skip


@checked_arguments
def train(
    data: PathLike | None = None,
    output: PathLike | None = None,
    *,
    images: PathLike | None = None,
    class_mapping: PathLike | None = None,
    crop: bool = True,
    recipe: str | Path | Recipe | None = None,
    changes: Mapping[str, object] | None = None,
    weights: PathLike | None = None,
    teacher: PathLike | None = None,
    extend: PathLike | None = None,
    max_old_drop: float = 1.0,
    resume: PathLike | None = None,
    overwrite: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    compile: bool = False,
    threads: int = 0,
    cache_mb: int = 4096,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> TrainingResult:
    """Train a classifier on labeled car images, and keep the checkpoint of the best epoch.

    >>> trained = tw.train("cars", "runs/cars", recipe="tiny.toml", changes={"epochs": 1}, overwrite=True)
    >>> trained.checkpoint
    PosixPath('runs/cars/best.pt')

    Args:
        data: a CSV (filename,label), a Parquet file or folder, Stanford Cars, or a folder with a subfolder per class.
        output: the run folder, for the results.
        images: the image folder of a CSV; None for `images/` next to the CSV, or the CSV's own folder.
        class_mapping: class_mapping.json of the labels; None for the class names in the data.
        crop: crop to the annotated box, if the data has one.
        recipe: the name of a bundled recipe, the path of a .toml file, or a `Recipe`; None for
            "lite0-cars196", or for "extend" if `extend` is given.
        changes: new values for keys of the recipe; write a key inside a table as "augmentation.flip".
        weights: pretrained weights: "auto", "none", a file, or hf://OWNER/REPO/FILE; None for the recipe's setting.
        teacher: a checkpoint with the same classes, for distillation in addition to the labels: a file, or
            hf://OWNER/REPO/FILE.
        extend: the checkpoint of a model to extend by the new classes of `data`: a file, or hf://OWNER/REPO/FILE.
            Include images of its own classes in `data` if you have them.
        max_old_drop: the largest drop in top-1 on the classes of `extend`, in percentage points.
        resume: a run folder to continue with its recorded data and recipe, instead of `data` and `output`.
        overwrite: replace an earlier run in the same folder.
        device: "auto" uses a GPU if there is one.
        precision: the arithmetic; "auto" uses bf16 if the hardware benefits.
        compile: speed up the model with torch.compile.
        threads: CPU threads; 0 for PyTorch's default.
        cache_mb: the size limit of the cache of decoded images, in MB.
        on_epoch: called after each epoch with its metrics.
        progress: called often with the stage ("check", "read", "train", "validate", "evaluate"), the work done and the
            total.

    Raises:
        InputError: the data, recipe, teacher or folder cannot be used, or the device is missing or too small.
        ModelError: the weights do not fit, or the loss is no longer finite.
        GateError: the classes of `extend` lost more than `max_old_drop`; the run folder is complete nevertheless.
        MissingExtraError: the extra `train` is not installed.
    """
    values = locals()
    defaults = inspect.signature(train).parameters
    given = [f"`{name}`" for name in _NEW_RUN if values[name] not in (defaults[name].default, {})]
    if resume is None and extend is None and "`max_old_drop`" in given:
        raise InputError("`max_old_drop` needs `extend`")
    require("torch", "train")
    from twincar_edge.training import extension
    from twincar_edge.training.fit import fit
    from twincar_edge.training.hub import resolve_checkpoint
    from twincar_edge.training.machine import Machine

    weights_file = None
    teacher_file = None if teacher is None else resolve_checkpoint(str(teacher))
    extending = None
    if extend is not None:
        extending = extension.ExtensionConfig(model=resolve_checkpoint(str(extend)), max_old_drop=max_old_drop)
    if resume is not None:
        if given:
            raise InputError(f"resume: {resume} has its own data and recipe: leave out {', '.join(given)}")
        record, opened = recorded_training(Path(resume))
        if record.folds is not None:
            raise InputError(f"resume: {resume} is a cross-validation; continue it from the command line")
        chosen, weights_file, extending = record.recipe, record.weights_file, record.extending
        folder, teacher_file = Path(resume), teacher_file or record.teacher
    else:
        found = labeled_images(data, images, class_mapping, crop)
        if found is None or output is None:
            raise InputError("train needs `data` and `output`, or `resume`")
        texts = [f"{key}={_as_toml(key, value)}" for key, value in (changes or {}).items()]
        chosen, weights_file = choose_recipe(
            recipe, texts, None if weights is None else str(weights), extending=extending is not None
        )
        opened, folder = found, Path(output)
    return fit(
        chosen,
        opened.open(),
        folder,
        data_options=opened,
        weights_file=weights_file,
        teacher=teacher_file,
        extending=extending,
        machine=Machine(device, threads, cache_mb, precision, compile),
        overwrite=overwrite,
        resume=resume is not None,
        on_epoch=on_epoch,
        progress=progress,
    )


def _as_toml(key: str, value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        place = Parameter(f"changes[{key!r}]")
        raise InputError(place, f": a recipe cannot hold a value of the type {type(value).__name__}") from error


def choose_recipe(
    recipe: str | Path | Recipe | None, changes: Sequence[str], weights: str | None, *, extending: bool = False
) -> tuple[Recipe, Path | None]:
    """Return the recipe with its changes, and the file of pretrained weights, if any.

    Args:
        recipe: the name of a bundled recipe, the path of a .toml file, or a `Recipe`; None for the default one.
        changes: `key=value`, as `read_recipe` takes them.
        weights: "auto", "none", a path, or a reference to the Hub; None for the recipe's setting.
        extending: whether the training extends an existing model, which starts from its own weights.

    Raises:
        InputError: there is no such recipe, key or file, or a value is not allowed.
    """
    weights_file = None
    if extending and weights is not None:
        raise InputError("an extended model starts from the weights of the old one: leave out ", Parameter("weights"))
    if weights is not None and is_changed(changes, "weights"):
        raise InputError(
            "the weights are given twice, the second time as a key of the recipe: leave out ", Parameter("weights")
        )
    if recipe is None:
        recipe = EXTENDING_RECIPE if extending else DEFAULT_RECIPE
    if weights in ("auto", "none"):
        # Random weights cannot be frozen. A number that was asked for is not replaced; the recipe refuses it.
        changes = (*(("freeze_stages=0",) if weights == "none" else ()), *changes, f"weights={weights}")
    elif weights:
        from twincar_edge.training.hub import resolve_checkpoint

        weights_file = resolve_checkpoint(weights)
        changes = (*changes, "weights=file")
    if not isinstance(recipe, Recipe):
        return read_recipe(str(recipe), changes), weights_file
    if changes:
        raise InputError("changes and weights cannot be combined with a Recipe: set its keys instead")
    return recipe, weights_file


def recorded_training(run: Path) -> tuple[RunRecord, OpenOptions]:
    """Return the record of an earlier run, and the location of its labeled images.

    Raises:
        InputError: the folder is not a run, or its images are not recorded.
    """
    from twincar_edge.training.run_folder import RunFolder

    record = RunFolder(run).read_record()
    if record.data is None:
        raise InputError(f"{run} does not record the location of its images: train again")
    return record, record.data
