"""`twincar-edge export`: a checkpoint as ONNX files that are shown to answer as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from pydantic import ValidationError

from twincar_edge.cli.groups import GroupedCommand, option
from twincar_edge.cli.options import checkpoint_argument, data_options, progress_bar, unknown_option
from twincar_edge.cli.parity_limits import limit_options, take_limits
from twincar_edge.cli.parity_table import print_parity
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, first_fault
from twincar_edge.export import ConfidenceOptions, ExportConfig, ExportResult, Int8Search, ParityError, export
from twincar_edge.export.int8.config import CALIBRATIONS, PRESETS, Int8Config
from twincar_edge.export.opset import OPSET

# The options that are choices of `Int8Config`, by the names of both.
_CHOICES = ("reduce_range", "per_channel", "symmetric", "float_layers", "calibration", "percentile")
_CONFIDENCE = tuple(ConfidenceOptions.model_fields)


@click.command("export", cls=GroupedCommand, groups=("Model", "Data", "INT8", "Confidence", "Limits"))
@checkpoint_argument()
@option(
    "-o",
    "--output",
    group="Model",
    common=True,
    type=click.Path(path_type=Path),
    required=True,
    help="Write the files into this folder.",
)
@option(
    "--int8",
    group="INT8",
    common=True,
    is_flag=True,
    help="Write an INT8 file beside the FP32 one, calibrated on training images.",
)
@option("--fp16", group="Model", common=True, is_flag=True, help="Write a half-precision file too, for GPU providers.")
@option(
    "--explainable/--not-explainable",
    group="Model",
    default=True,
    show_default=True,
    help="Add the last feature map as an output, so that a box can explain answers without PyTorch.",
)
@option(
    "--opset",
    group="Model",
    metavar="N",
    type=int,
    default=OPSET,
    show_default=True,
    help="Export to this version of ONNX's operator set.",
)
@option(
    "--search/--no-search",
    group="INT8",
    default=True,
    show_default=True,
    help="Look for the fastest INT8 file within the limits, or take the target's choices as they are.",
)
@option(
    "--target",
    group="INT8",
    common=True,
    metavar="TARGET",
    help=f"Make the INT8 file for {', '.join(PRESETS)}.  [default: this machine's kind]",
)
@option(
    "--calibration-images",
    group="INT8",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="Calibrate on this many training images.",
)
@option(
    "--calibration",
    group="INT8",
    type=click.Choice(CALIBRATIONS),
    help="Find the range of each activation by this method.  [default: searched]",
)
@option(
    "--percentile",
    group="INT8",
    metavar="PERCENT",
    type=float,
    help=f"Keep this much of an activation's values with --calibration percentile.  "
    f"[default: {Int8Config().percentile}]",
)
@option(
    "--reduce-range/--no-reduce-range",
    group="INT8",
    default=None,
    help="Keep weights below 8 bits, so that CPUs with and without VNNI answer alike.  [default: as the target wants]",
)
@option(
    "--per-channel/--per-tensor",
    group="INT8",
    default=None,
    help="Scale each channel of a layer by itself, or all alike.  [default: as the target wants]",
)
@option(
    "--symmetric/--asymmetric",
    group="INT8",
    default=None,
    help="Put the zero of activations in the middle, or where it fits best.  [default: as the target wants]",
)
@option(
    "--float-layers",
    group="INT8",
    metavar="N",
    type=click.IntRange(0, 1000),
    help="Leave this many layers in float, counted from the input.  [default: as the target wants]",
)
@option(
    "--class-mapping",
    group="Model",
    type=click.Path(path_type=Path),
    help="Take class names from this class_mapping.json, for a checkpoint that holds none.",
)
@data_options(required=False)
@option(
    "--name",
    group="Model",
    common=True,
    help="Call the files so.  [default: architecture and the checkpoint's digest]",
)
@option(
    "--notes",
    group="Model",
    common=True,
    default="",
    help="Put this text into the files: data terms, what the model is for.",
)
@option(
    "--temperature",
    group="Confidence",
    metavar="NUMBER",
    type=float,
    help="Divide the logits by this on the box.  [default: fitted on held-out images]",
)
@option(
    "--reject-below",
    group="Confidence",
    common=True,
    metavar="SHARE",
    type=float,
    help='Answer "unknown" below this probability, from 0 to 1.  [default: chosen by --false-accept]',
)
@option(
    "--false-accept",
    group="Confidence",
    common=True,
    metavar="SHARE",
    type=float,
    default=ConfidenceOptions().false_accept,
    show_default=True,
    help="Let at most this share of the pictures of unknown things get a name, from 0 to 1.",
)
@unknown_option
@option("--hold-noise", group="Confidence", is_flag=True, help="Hold pictures of noise to --false-accept too.")
@option(
    "--hold-masked",
    group="Confidence",
    is_flag=True,
    help="Hold cars without their own class to --false-accept too.",
)
@option(
    "--keep-known",
    group="Confidence",
    type=(float, float, float),
    metavar="FULL MODEL MAKE",
    default=ConfidenceOptions().keep_known,
    show_default=True,
    help="Keep these shares of the held-out cars familiar enough for a name in full, a model and a make.",
)
@option(
    "--max-wrong-names",
    group="Confidence",
    metavar="SHARE",
    type=float,
    help="Let at most this share of the pictures of --unknown get a full name, from 0 to 1. With --max-wrong-claims, "
    "these pictures choose all thresholds.",
)
@option(
    "--max-wrong-claims",
    group="Confidence",
    metavar="SHARE",
    type=float,
    help="Let at most this share of the pictures of --unknown get any wrong name, from 0 to 1.",
)
@limit_options
@option(
    "--min-coverage",
    group="Limits",
    metavar="SHARE",
    type=float,
    default=ConfidenceOptions().min_coverage,
    show_default=True,
    help="Fail if a smaller share of the held-out images gets a name, be it a make alone; 0 allows any.",
)
@option(
    "--keep-failed",
    group="Limits",
    is_flag=True,
    help="Keep a file that missed a limit, as NAME.PRECISION.failed.onnx.",
)
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
    """Refuse options of INT8 without --int8: a user who sets one expects an INT8 file.

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
