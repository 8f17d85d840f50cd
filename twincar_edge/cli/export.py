"""`twincar-edge export`: a checkpoint as ONNX files that are shown to answer as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from pydantic import ValidationError

from twincar_edge.cli.options import checkpoint_argument, data_options, progress_bar
from twincar_edge.cli.parity_limits import limit_options, take_limits
from twincar_edge.cli.parity_table import print_parity
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, first_fault
from twincar_edge.export import ConfidenceOptions, ExportConfig, ExportResult, Int8Search, ParityError, export
from twincar_edge.export.int8.config import CALIBRATIONS, PRESETS, Int8Config
from twincar_edge.export.opset import OPSET

# The options that are choices of `Int8Config`, by the names of both.
_CHOICES = ("reduce_range", "per_channel", "symmetric", "float_layers", "calibration", "percentile")
_CONFIDENCE = ("temperature", "reject_below", "false_accept", "unknown", "hold_noise", "hold_masked", "keep_known")


@click.command("export")
@checkpoint_argument()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the files.")
@click.option("--int8", is_flag=True, help="An INT8 file beside the FP32 one, calibrated on training images.")
@click.option("--fp16", is_flag=True, help="A half-precision file as well, for GPU providers.")
@click.option("--opset", type=int, default=OPSET, show_default=True, help="The ONNX operator set.")
@click.option(
    "--search/--no-search",
    default=True,
    show_default=True,
    help="Look for the fastest INT8 file within the limits; else take the target's choices as they are.",
)
@click.option(
    "--target",
    metavar="TARGET",
    help=f"What the INT8 file is for: {', '.join(PRESETS)}.  [default: this machine's kind]",
)
@click.option("--calibration-images", type=click.IntRange(1, 100_000), default=256, show_default=True)
@click.option("--calibration", type=click.Choice(CALIBRATIONS), help="How ranges are found.  [default: searched]")
@click.option("--percentile", type=float, help="Percent of an activation's values that --calibration percentile keeps.")
@click.option(
    "--reduce-range/--no-reduce-range",
    default=None,
    help="INT8 weights that give the same answers on CPUs with and without VNNI.  [default: as the target wants]",
)
@click.option("--per-channel/--per-tensor", default=None, help="A scale for each channel of a layer, or one for all.")
@click.option("--symmetric/--asymmetric", default=None, help="Whether activations have their zero in the middle.")
@click.option(
    "--float-layers",
    type=click.IntRange(0, 1000),
    help="Layers of the INT8 file, from the input on, that stay in float.  [default: as the target wants]",
)
@click.option(
    "--class-mapping", type=click.Path(path_type=Path), help="class_mapping.json of a checkpoint that holds no names."
)
@data_options(required=False)
@click.option("--name", help="What the files are called.  [default: architecture and the checkpoint's digest]")
@click.option("--notes", default="", help="For those who find the file later: data terms, what it is for.")
@click.option("--temperature", type=float, help="Divides the logits, on the box.  [default: fitted on held-out images]")
@click.option(
    "--reject-below",
    type=float,
    help='Probability under which the answer is "unknown".  [default: chosen by --false-accept]',
)
@click.option(
    "--false-accept",
    type=float,
    default=ConfidenceOptions().false_accept,
    show_default=True,
    help="Share of pictures of unknown things that may get a name.",
)
@click.option(
    "--unknown",
    type=click.Path(path_type=Path),
    help="Folder of pictures of what the model does not know, beside drawn cars and noise.",
)
@click.option("--hold-noise", is_flag=True, help="Hold pictures of noise to --false-accept as well.")
@click.option("--hold-masked", is_flag=True, help="Hold cars whose own class is taken away to --false-accept as well.")
@click.option(
    "--keep-known",
    type=(float, float, float),
    metavar="FULL MODEL MAKE",
    default=ConfidenceOptions().keep_known,
    show_default=True,
    help="Shares of held-out cars that stay familiar enough for a name in full, a model, a make.",
)
@limit_options
@click.option("--keep-failed", is_flag=True, help="Keep a file that missed a limit, as NAME.int8.failed.onnx.")
def command(
    checkpoint: str,
    output: Path,
    int8: bool,
    search: bool,
    target: str | None,
    calibration_images: int,
    data: OpenOptions | None,
    **options: Any,
) -> None:
    """Export CHECKPOINT to ONNX, and compare its answers image by image with PyTorch's.

    CHECKPOINT is a .pt, .pth or .safetensors file: a path, or hf://OWNER/REPO/PATH/FILE[@REVISION].
    The images are those that the training held out, found beside the checkpoint, or --data. A file that misses a limit
    is not left where it could be deployed, and the exit code is 1.
    """
    from twincar_edge.training.hub import resolve_checkpoint

    limits = take_limits(options)
    changes = {name: value for name in _CHOICES if (value := options.pop(name)) is not None}
    choices = Int8Search(target=target, changes=changes, calibration_images=calibration_images)
    int8_choices = None
    if int8:
        int8_choices = _int8(choices, search)
    else:
        _refuse_options_of_int8()
    confidence = _confidence({name: options.pop(name) for name in _CONFIDENCE})
    config = ExportConfig(
        checkpoint=resolve_checkpoint(checkpoint),
        output=output,
        int8=int8_choices,
        limits=limits,
        data=data,
        confidence=confidence,
        **options,
    )
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        try:
            result = export(config, progress)
        except ParityError as error:
            bar.stop()
            print_parity(error.report)
            raise
    print_parity(result.parity)
    _print_result(result)


def _int8(choices: Int8Search, search: bool) -> Int8Config | Int8Search:
    """Return the choices, checked now and not after minutes; without a search, the first preset's."""
    presets = choices.presets()
    return choices if search else presets[0]


def _refuse_options_of_int8() -> None:
    """Refuse options of INT8 where no INT8 file is asked for: whoever gives one expects such a file.

    Raises:
        InputError: there is one.
    """
    context = click.get_current_context()
    names = (*_CHOICES, "search", "target", "calibration_images")
    given = [name for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
        raise InputError(f"{options[given[0]]} is about an INT8 file: add --int8")


def _confidence(options: dict[str, Any]) -> ConfidenceOptions:
    try:
        return ConfidenceOptions(**options)
    except ValidationError as error:
        raise InputError(f"an export cannot be as sure as this {first_fault(error)}") from error


def _print_result(result: ExportResult) -> None:
    sure = result.confidence
    folder = result.fp32.parent
    if result.search is not None:
        [row] = [row for row in result.search.rows if row.chosen]
        speed = "" if row.speedup is None else f", {row.speedup:.1f} times as fast as FP32"
        click.echo(f"INT8: {row.name}, of {len(result.search.rows)} tried{speed}")
    for path in (result.fp32, result.fp16, result.int8):
        if path is not None:
            click.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    click.echo(f"{folder / 'parity.md'}  {len(result.parity.comparisons[-1].flips)} answers changed")
    click.echo(f'{folder / "confidence.md"}  temperature {sure.temperature:g}, "unknown" below {sure.threshold:g}')
    for warning in sure.warnings:
        click.echo(f"warning: {warning}", err=True)
