"""`twincar-edge export`: a checkpoint as ONNX files that are shown to answer as it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from twincar_edge.cli.options import checkpoint_argument, data_options, progress_bar
from twincar_edge.datasets.options import OpenOptions
from twincar_edge.errors import InputError
from twincar_edge.export import (
    ExportConfig,
    ExportResult,
    Int8Config,
    ParityError,
    ParityLimits,
    ParityReport,
    export,
)
from twincar_edge.export.report import COLUMNS

_STAGES = {"graph": "writing the graph", "calibration": "calibrating INT8", "parity": "comparing answers"}

# Option -> field of `ParityLimits`, how many of the option's units make 1 there, and what it bounds.
_LIMITS: dict[str, tuple[str, int, str]] = {
    "--max-logit-difference": ("fp32_logit_difference", 1, "FP32 against PyTorch, relative to the largest logit."),
    "--max-top1-drop": ("int8_top1_drop", 100, "INT8 against FP32, in points."),
    "--max-top5-drop": ("int8_top5_drop", 100, "INT8 against FP32, in points."),
    "--min-agreement": ("int8_agreement", 100, "INT8 with FP32, in percent."),
    "--min-sure-agreement": ("int8_sure_agreement", 100, "The same where FP32 is sure, in percent."),
}


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    defaults = ParityLimits().model_dump()
    for option, (field, unit, text) in reversed(_LIMITS.items()):
        default = round(defaults[field] * unit, 9)
        command = click.option(option, field, type=float, default=default, show_default=True, help=text)(command)
    return command


def _limits(options: dict[str, Any]) -> ParityLimits:
    """Take the limits out of a command's options.

    Raises:
        InputError: one is negative, not finite, or above 100 percent.
    """
    given = {option: options.pop(field) for option, (field, _, _) in _LIMITS.items()}
    try:
        return ParityLimits(**{field: given[option] / unit for option, (field, unit, _) in _LIMITS.items()})
    except ValidationError as error:
        named = {field: option for option, (field, _, _) in _LIMITS.items()}
        option = named[str(error.errors()[0]["loc"][0])]
        bounds = "0 or more" if _LIMITS[option][1] == 1 else f"between 0 and {_LIMITS[option][1]}"
        raise InputError(f"{option} cannot be {given[option]:g}: must be {bounds}") from error


@click.command("export")
@checkpoint_argument()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the files.")
@click.option("--int8", is_flag=True, help="An INT8 file beside the FP32 one, calibrated on training images.")
@click.option("--calibration-images", type=click.IntRange(1, 100_000), default=256, show_default=True)
@click.option(
    "--reduce-range/--no-reduce-range",
    default=True,
    show_default=True,
    help="INT8 weights that give the same answers on CPUs with and without VNNI.",
)
@click.option(
    "--float-layers",
    type=click.IntRange(0, 1000),
    default=1,
    show_default=True,
    help="Layers of the INT8 file, from the input on, that stay in float: more of them lose less, and take longer.",
)
@click.option(
    "--class-mapping", type=click.Path(path_type=Path), help="class_mapping.json of a checkpoint that holds no names."
)
@data_options(required=False)
@click.option("--name", help="What the files are called.  [default: architecture and the checkpoint's digest]")
@click.option("--notes", default="", help="For those who find the file later: data terms, what it is for.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Divides the logits, on the box.")
@click.option(
    "--reject-below",
    type=float,
    default=0.0,
    show_default=True,
    help='Probability under which the answer is "unknown".',
)
@_limit_options
@click.option("--keep-failed", is_flag=True, help="Keep a file that missed a limit, as NAME.int8.failed.onnx.")
def command(
    checkpoint: str,
    output: Path,
    int8: bool,
    calibration_images: int,
    reduce_range: bool,
    float_layers: int,
    data: OpenOptions | None,
    **options: Any,
) -> None:
    """Export CHECKPOINT to ONNX, and compare its answers image by image with PyTorch's.

    CHECKPOINT is a .pt, .pth or .safetensors file: a path, or hf://OWNER/REPO/PATH/FILE[@REVISION].
    The images are those that the training held out, found beside the checkpoint, or --data. A file that misses a limit
    is not left where it could be deployed, and the exit code is 1.
    """
    from twincar_edge.training.hub import resolve_checkpoint

    limits = _limits(options)
    recipe = (
        Int8Config(reduce_range=reduce_range, float_layers=float_layers, calibration_images=calibration_images)
        if int8
        else None
    )
    config = ExportConfig(resolve_checkpoint(checkpoint), output, recipe, limits, data, **options)
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(task, description=_STAGES[stage], completed=done, total=total)

        try:
            result = export(config, progress)
        except ParityError as error:
            bar.stop()
            _print_parity(error.report)
            raise
    _print_parity(result.parity)
    _print_files(result)


def _print_parity(report: ParityReport) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        title=escape(f"{report.name} on {report.data.images} images of {report.data.name}"),
    )
    table.caption = "each compared with the one above it; Δ: difference of a logit"
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "Model" else "right")
    for row in report.rows():
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def _print_files(result: ExportResult) -> None:
    files = [path for path in (result.fp32, result.int8) if path is not None]
    for path in files:
        click.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    click.echo(f"{result.fp32.parent / 'parity.md'}  {len(result.parity.comparisons[-1].flips)} answers changed")
